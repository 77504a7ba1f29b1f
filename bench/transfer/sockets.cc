// What plain sockets carry, with nothing around them.
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <optional>
#include <span>
#include <thread>

#include "measure.h"
#include "transfer/checksum.h"

namespace penstock::transfer::measure {
namespace {

/// `streams` connections, `pieces` blocks a call.
double socket_round(const std::vector<int>& out, const std::byte* from,
                    const std::vector<std::uint32_t>& order, std::uint32_t block, unsigned pieces) {
  const std::size_t each = order.size() / out.size();
  const TimePoint start = kClock.now();
  {
    std::vector<std::jthread> senders;
    for (std::size_t s = 0; s < out.size(); ++s) {
      senders.emplace_back([&, s] {
        std::vector<iovec> vectors(pieces);
        for (std::size_t i = 0; i < each; i += pieces) {
          const std::size_t count = std::min<std::size_t>(pieces, each - i);
          for (std::size_t k = 0; k < count; ++k) {
            const std::uint64_t at = std::uint64_t{order[s * each + i + k]} * block;
            vectors[k] = {const_cast<std::byte*>(from) + at, block};
          }
          for (std::size_t first = 0; first < count;) {
            ssize_t sent = writev(out[s], &vectors[first], static_cast<int>(count - first));
            CHECK(sent > 0);
            for (; sent > 0; ++first) {
              auto& front = vectors[first];
              const auto taken = std::min<std::size_t>(front.iov_len, sent);
              front = {static_cast<std::byte*>(front.iov_base) + taken, front.iov_len - taken};
              sent -= static_cast<ssize_t>(taken);
              if (front.iov_len > 0) break;
            }
          }
        }
        char over = 0;
        CHECK_EQ(read(out[s], &over, 1), 1);  // the receiver has it all
      });
    }
  }
  return static_cast<double>(each * out.size() * block) / seconds(start) / 1e9;
}

/// All of a stream, right to where it is to be, `pieces` blocks a call. False: it is over.
bool receive(int fd, std::span<std::byte> to, std::uint32_t block, unsigned pieces) {
  std::vector<iovec> vectors(pieces);
  for (std::uint64_t at = 0; at < to.size();) {
    unsigned count = 0;
    for (std::uint64_t next = at; next < to.size() && count < pieces; ++count) {
      const std::uint64_t end = (next / block + 1) * block;
      vectors[count] = {to.data() + next, end - next};
      next = end;
    }
    const ssize_t got = readv(fd, vectors.data(), static_cast<int>(count));
    if (got <= 0) return false;
    at += static_cast<std::uint64_t>(got);
  }
  return true;
}

/// The same as the library does it: by way of a buffer that stays in the cache, checksums taken.
bool receive_staged(int fd, std::span<std::byte> to, std::uint32_t block) {
  alignas(64) static thread_local std::array<std::byte, 64 << 10> buffer;
  static std::atomic<Checksum> sums{0};  // somebody needs them
  const std::size_t step = std::min<std::size_t>(block, buffer.size());
  CHECK(buffer.size() % step == 0 && block % step == 0);
  std::optional<CopySum> copy;
  for (std::uint64_t at = 0; at < to.size();) {
    const std::uint64_t bytes = std::min(buffer.size(), to.size() - at);
    if (recv(fd, buffer.data(), bytes, MSG_WAITALL) != static_cast<ssize_t>(bytes)) return false;
    for (std::uint64_t taken = 0; taken < bytes; taken += step, at += step) {
      if (at % block == 0) copy.emplace(to.data() + at, block, Stores::kStreaming);
      copy->add(buffer.data() + taken, step);
      if ((at + step) % block == 0) sums.fetch_xor(copy->sum(), std::memory_order_relaxed);
    }
  }
  fence_stores();
  return true;
}

[[noreturn]] void receive_for_ever(int listener, unsigned streams, std::uint32_t block,
                                   unsigned pieces, bool staged) {
  const Memory to = pool(kPoolBytes);
  const std::uint64_t each = kPoolBytes / block / streams * block;
  std::vector<std::jthread> threads;
  for (unsigned s = 0; s < streams; ++s) {
    const int fd = accept(listener, nullptr, nullptr);
    const std::span<std::byte> part(to.data() + s * each, each);
    threads.emplace_back([fd, part, block, pieces, staged] {
      while (staged ? receive_staged(fd, part, block) : receive(fd, part, block, pieces)) {
        if (write(fd, "", 1) != 1) return;
      }
    });
  }
  threads.clear();
  _exit(0);
}

}  // namespace

void sockets_row(std::uint32_t block, unsigned streams, const std::string& mode) {
  const bool staged = mode == "staged";
  const bool tuned = staged || mode == "tuned";
  Floor floor(block);
  double best = 0;
  for (const unsigned pieces : {1U, 16U, 64U}) {
    if (std::uint64_t{block} * pieces > (4U << 20)) continue;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
    CHECK(listen(listener, 16) == 0);
    CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    const pid_t receiver = fork();
    if (receiver == 0) receive_for_ever(listener, streams, block, pieces, staged);
    Memory from = pool(kPoolBytes);
    write_pattern(from.data(), kPoolBytes);
    std::vector<int> out;
    for (unsigned s = 0; s < streams; ++s) {
      out.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      CHECK(connect(out.back(), reinterpret_cast<sockaddr*>(&address), size) == 0);
      const int one = 1;
      setsockopt(out.back(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
      if (tuned) {
        const int bytes = 256 << 10;
        setsockopt(out.back(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
      }
    }
    std::vector<double> rates;
    for (int round = 0; round <= kRounds; ++round) {
      const auto order = shuffled(static_cast<std::uint32_t>(kPoolBytes / block), round + 1);
      rates.push_back(socket_round(out, from.data(), order, block, pieces));
    }
    rates.erase(rates.begin());
    best = std::max(best, median(rates));
    for (const int fd : out) close(fd);
    kill(receiver, SIGKILL);
    waitpid(receiver, nullptr, 0);
    close(listener);
  }
  fmt::print(
      "{{\"mode\": \"{}\", \"block\": {}, \"threads\": {}, \"GBps\": {:.3f}, "
      "\"ratio\": {:.3f}}}\n",
      mode, block, streams, best, best / floor.gb_per_s(5));
}

}  // namespace penstock::transfer::measure
