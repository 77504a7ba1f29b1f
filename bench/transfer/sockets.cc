// What plain sockets carry, with nothing around them but, if wanted, checksums.
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
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

[[noreturn]] void receive_for_ever(int listener, unsigned streams, std::uint32_t block,
                                   unsigned pieces, bool summed) {
  const Memory to = pool(kPoolBytes);
  const std::uint64_t each = kPoolBytes / block / streams * block;
  std::atomic<Checksum> sums{0};  // somebody needs them
  std::vector<std::jthread> threads;
  for (unsigned s = 0; s < streams; ++s) {
    const int fd = accept(listener, nullptr, nullptr);
    threads.emplace_back([&to, &sums, fd, s, each, block, pieces, summed] {
      std::vector<iovec> vectors(pieces);
      for (;;) {
        FillingSum filling;
        std::uint64_t filled = 0;  // bytes of which blocks' sums are taken
        for (std::uint64_t at = 0; at < each;) {
          unsigned count = 0;
          for (std::uint64_t next = at; next < each && count < pieces; ++count) {
            const std::uint64_t end = (next / block + 1) * block;
            vectors[count] = {to.data() + s * each + next, end - next};
            next = end;
          }
          const ssize_t got = readv(fd, vectors.data(), static_cast<int>(count));
          if (got <= 0) return;
          at += static_cast<std::uint64_t>(got);
          while (summed && filled < at) {
            const std::uint64_t begin = filled / block * block;
            if (filled == begin) filling = FillingSum(to.data() + s * each + begin, block);
            filled = std::min(at, begin + block);
            filling.filled(filled - begin);
            if (filled == begin + block) sums.fetch_xor(filling.sum(), std::memory_order_relaxed);
          }
        }
        if (write(fd, "", 1) != 1) return;
      }
    });
  }
  threads.clear();
  _exit(0);
}

}  // namespace

void sockets_row(std::uint32_t block, unsigned streams, const std::string& mode) {
  const bool summed = mode == "summed" || mode == "tuned-summed";
  const bool tuned = mode == "tuned" || mode == "tuned-summed";
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
    if (receiver == 0) receive_for_ever(listener, streams, block, pieces, summed);
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
