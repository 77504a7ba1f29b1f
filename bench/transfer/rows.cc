// One row of the transfer library's benchmark as a line of JSON:
//   transfer_rows memory|shared|cma|tcp|sockets BLOCK_BYTES [THREADS]
//   transfer_rows submit|latency|death|checksum
// Pools are larger than the last-level cache, blocks go in a random order to a random order of
// slots, a transfer's creation is inside its time, and what arrived is looked at. See
// bench_transfer.py.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/counted_new.h"
#include "base/rng.h"
#include "transfer/checksum.h"
#include "transfer/host_server.h"
#include "transfer/peer.h"
#include "transfer/tcp_server.h"

namespace {

using namespace penstock;
using namespace penstock::transfer;
using namespace std::chrono_literals;

const SteadyClock kClock;
const std::string kSecret = "a secret for measurements only";
const GrantId kFirstGrant{0, 1};

std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}
const std::uint64_t kPoolBytes = environment("POOL_MIB", 512) << 20;
const auto kRounds = static_cast<int>(environment("ROUNDS", 7));

double seconds(TimePoint from) {
  return std::chrono::duration<double>(kClock.now() - from).count();
}
double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

BlockKey key_of(std::uint32_t slot) { return {mix64(slot), slot}; }
std::uint64_t word_of(std::uint64_t at) { return at * 0x9e3779b97f4a7c15ULL; }
void write_pattern(std::byte* to, std::uint64_t size) {
  auto* words = reinterpret_cast<std::uint64_t*>(to);
  for (std::uint64_t i = 0; i < size / 8; ++i) words[i] = word_of(i);
}

std::vector<std::uint32_t> shuffled(std::uint32_t count, std::uint64_t seed) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed);
  for (std::uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

Memory pool(std::uint64_t size) {
  auto memory = Memory::create(MemoryKind::kPrivate, size);
  CHECK(memory.has_value());
  return std::move(*memory);
}

Layout layout_of(std::uint32_t block) {
  return Layout::by_block(static_cast<std::uint32_t>(kPoolBytes / block), 1, block);
}

/// Plain memcpy between two cold pools, both orders random: what everything is divided by.
class Floor {
 public:
  explicit Floor(std::uint32_t block)
      : block_(block), from_(pool(kPoolBytes)), to_(pool(kPoolBytes)) {
    write_pattern(from_.data(), kPoolBytes);
  }
  double gb_per_s(std::uint64_t seed) {
    const auto count = static_cast<std::uint32_t>(kPoolBytes / block_);
    const auto a = shuffled(count, seed);
    const auto b = shuffled(count, seed + 1);
    const TimePoint start = kClock.now();
    for (std::uint32_t i = 0; i < count; ++i) {
      std::memcpy(to_.data() + std::uint64_t{b[i]} * block_,
                  from_.data() + std::uint64_t{a[i]} * block_, block_);
    }
    return static_cast<double>(kPoolBytes) / seconds(start) / 1e9;
  }

 private:
  std::uint32_t block_;
  Memory from_;
  Memory to_;
};

/// An owner of a whole pool in a process of its own, killed at the end.
class Owner {
 public:
  Owner(std::uint32_t block, bool foreign)
      : path_("/tmp/penstock-bench-" + std::to_string(getpid())) {
    std::array<int, 2> ends{};
    CHECK_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) own(block, foreign, ends[1]);
    close(ends[1]);
    CHECK_EQ(read(ends[0], &port_, sizeof port_), static_cast<ssize_t>(sizeof port_));
    close(ends[0]);
  }
  ~Owner() { end(); }
  void end() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
    unlink(path_.c_str());
  }
  void strike() const { kill(pid_, SIGKILL); }
  PeerAddress address(bool tcp, unsigned streams) const {
    PeerAddress made;
    made.secret = kSecret;
    made.tcp_streams = streams;
    if (tcp) {
      made.tcp_host = "127.0.0.1";
      made.tcp_port = port_;
    } else {
      made.socket_path = path_;
    }
    return made;
  }

 private:
  [[noreturn]] void own(std::uint32_t block, bool foreign, int ready) {
    const Layout layout = layout_of(block);
    Memory theirs = foreign ? pool(kPoolBytes) : Memory();
    auto arena = foreign ? Arena::adopt(layout, {theirs.data(), kPoolBytes})
                         : Arena::create(layout, MemoryKind::kShared);
    CHECK(arena.has_value());
    write_pattern((*arena)->memory().data(), kPoolBytes);
    std::vector<BlockRef> refs;
    for (std::uint32_t slot = 0; slot < layout.slots; ++slot) {
      (*arena)->reserve(slot);
      (*arena)->sum_and_commit(slot, key_of(slot));
      refs.push_back(*(*arena)->ref(slot));
    }
    CHECK(((*arena)->grants().open(refs, kClock.now() + 1h) == kFirstGrant));
    const auto host = HostServer::open(**arena, path_, "").value();
    const auto tcp = TcpServer::open(**arena, {.secret = kSecret}).value();
    const std::uint16_t port = tcp->port();
    CHECK_EQ(write(ready, &port, sizeof port), static_cast<ssize_t>(sizeof port));
    for (;;) pause();
  }

  std::string path_;
  pid_t pid_ = 0;
  std::uint16_t port_ = 0;
};

/// What a consumer hands in.
struct Wanted {
  explicit Wanted(std::uint32_t blocks, std::uint64_t seed)
      : take(shuffled(blocks, seed)), to(shuffled(blocks, seed + 1)), keys(blocks), status(blocks) {
    for (std::uint32_t i = 0; i < blocks; ++i) {
      granted.push_back({i, 2});
      keys[i] = key_of(take[i]);
    }
  }
  Pull pull() {
    Pull made;
    made.granted = granted;
    made.take = take;
    made.to = to;
    made.keys = keys;
    made.status = status;
    made.grant = kFirstGrant;
    return made;
  }
  std::vector<BlockRef> granted;
  std::vector<std::uint32_t> take;
  std::vector<std::uint32_t> to;
  std::vector<BlockKey> keys;
  std::vector<BlockStatus> status;
};

void look_at(const Arena& to, const Wanted& wanted, std::uint32_t block) {
  const std::size_t count = wanted.take.size();
  for (std::size_t i = 0; i < count; i += std::max<std::size_t>(1, count / 200)) {
    const auto* words = reinterpret_cast<const std::uint64_t*>(to.part(wanted.to[i], 0));
    const std::uint64_t first = std::uint64_t{wanted.take[i]} * block / 8;
    for (std::uint64_t at = 0; at < block / 8; ++at) CHECK_EQ(words[at], word_of(first + at));
  }
}

void pull_rows(const std::string& mode, std::uint32_t block, unsigned threads) {
  Owner owner(block, mode == "cma");
  Floor floor(block);
  const auto to = Arena::create(layout_of(block), MemoryKind::kPrivate).value();
  CopyPool pool(threads);
  const auto peer = Peer::connect(owner.address(mode == "tcp", threads), pool, kClock).value();
  CHECK(to_string(peer->paths()[0]->kind()) == mode);
  std::vector<double> rates;
  std::vector<double> ratios;
  std::vector<double> floors;
  for (int round = -1; round < kRounds; ++round) {
    Wanted wanted(layout_of(block).slots, 2 * static_cast<std::uint64_t>(round + 2));
    const double base = floor.gb_per_s(7 + static_cast<std::uint64_t>(round + 2));
    const TimePoint start = kClock.now();
    Transfer transfer;
    CHECK(peer->pull(transfer, wanted.pull(), *to).has_value());
    while (!transfer.done()) std::this_thread::sleep_for(50us);
    const double rate = static_cast<double>(kPoolBytes) / seconds(start) / 1e9;
    CHECK_EQ(transfer.arrived(), wanted.take.size());
    look_at(*to, wanted, block);
    if (round < 0) continue;  // the first touches what is touched for the first time
    rates.push_back(rate);
    floors.push_back(base);
    ratios.push_back(rate / base);
  }
  fmt::print(
      "{{\"mode\": \"{}\", \"block\": {}, \"threads\": {}, \"GBps\": {:.3f}, \"min\": {:.3f}, "
      "\"max\": {:.3f}, \"memcpy\": {:.3f}, \"ratio\": {:.3f}}}\n",
      mode, block, threads, median(rates), std::ranges::min(rates), std::ranges::max(rates),
      median(floors), median(ratios));
}

void memory_row(std::uint32_t block) {
  Floor floor(block);
  std::vector<double> rates;
  for (int round = 0; round < kRounds; ++round) rates.push_back(floor.gb_per_s(2 * round + 1));
  fmt::print("{{\"mode\": \"memory\", \"block\": {}, \"GBps\": {:.3f}}}\n", block, median(rates));
}

/// The same bytes through plain sockets: `streams` connections, `pieces` blocks a call, unverified.
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
                                   unsigned pieces) {
  const Memory to = pool(kPoolBytes);
  const std::uint64_t each = kPoolBytes / block / streams * block;
  std::vector<std::jthread> threads;
  for (unsigned s = 0; s < streams; ++s) {
    const int fd = accept(listener, nullptr, nullptr);
    threads.emplace_back([&to, fd, s, each, block, pieces] {
      std::vector<iovec> vectors(pieces);
      for (;;) {
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
        }
        if (write(fd, "", 1) != 1) return;
      }
    });
  }
  threads.clear();
  _exit(0);
}

void sockets_row(std::uint32_t block, unsigned streams) {
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
    if (receiver == 0) receive_for_ever(listener, streams, block, pieces);
    Memory from = pool(kPoolBytes);
    write_pattern(from.data(), kPoolBytes);
    std::vector<int> out;
    for (unsigned s = 0; s < streams; ++s) {
      out.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      CHECK(connect(out.back(), reinterpret_cast<sockaddr*>(&address), size) == 0);
      const int one = 1;
      setsockopt(out.back(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
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
      "{{\"mode\": \"sockets\", \"block\": {}, \"threads\": {}, \"GBps\": {:.3f}, "
      "\"ratio\": {:.3f}}}\n",
      block, streams, best, best / floor.gb_per_s(5));
}

void submit_row() {
  const std::uint32_t blocks = 100000;
  const Layout layout = Layout::by_block(blocks, 1, 4096);
  const auto from = Arena::create(layout, MemoryKind::kPrivate).value();
  const auto to = Arena::create(layout, MemoryKind::kPrivate).value();
  Wanted wanted(blocks, 3);
  for (std::uint32_t slot = 0; slot < blocks; ++slot) {
    from->reserve(slot);
    from->sum_and_commit(slot, key_of(slot));
  }
  CHECK((from->grants().open(wanted.granted, kClock.now() + 1h) == kFirstGrant));
  CopyPool pool(1);
  const auto peer = Peer::local(*from, pool, kClock);
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(kRounds));
  std::uint64_t allocated = 0;
  for (int round = 0; round < kRounds; ++round) {
    Transfer transfer;
    const std::uint64_t before = allocations.load();
    const TimePoint start = kClock.now();
    CHECK(peer->pull(transfer, wanted.pull(), *to).has_value());
    times.push_back(seconds(start) * 1e6);
    CHECK(transfer.wait(Deadline(kClock.now() + 60s), kClock));
    allocated = std::max(allocated, allocations.load() - before);
    CHECK_EQ(transfer.arrived(), blocks);
  }
  fmt::print(
      "{{\"mode\": \"submit\", \"blocks\": {}, \"us\": {:.1f}, \"max_us\": {:.1f}, "
      "\"allocations\": {}}}\n",
      blocks, median(times), std::ranges::max(times), allocated);
}

/// A path that moves nothing, and notes when it had.
class Stamping final : public CopiedPath {
 public:
  explicit Stamping(ChunkQueue& queue) : CopiedPath(PathKind::kLocal, queue) {}
  void run(const Chunk& chunk) noexcept override {
    for (std::uint32_t i = chunk.begin; i < chunk.end; ++i) {
      chunk.pull().status[i] = BlockStatus::kArrived;
    }
    at.store(kClock.now().time_since_epoch().count(), std::memory_order_relaxed);
  }
  std::atomic<std::int64_t> at{0};
};
class StampingPeer final : public Peer {
 public:
  StampingPeer(Arena& arena, CopyPool& pool) : Peer(arena.layout(), 0, kClock) {
    auto made = std::make_unique<Stamping>(pool.queue());
    path = made.get();
    add_path(std::move(made));
  }
  ~StampingPeer() override { shut(); }
  Stamping* path;
};

void latency_row() {
  const auto arena = Arena::create(Layout::by_block(4, 1, 4096), MemoryKind::kPrivate).value();
  CopyPool pool(1);
  StampingPeer peer(*arena, pool);
  Wanted wanted(1, 1);
  std::array<std::vector<double>, 2> us;
  const Fd event(eventfd(0, EFD_CLOEXEC));
  for (int round = 0; round < 20000; ++round) {
    const bool sleep = round % 2 == 1;
    Transfer transfer;
    if (sleep) transfer.eventfd = event.get();
    CHECK(peer.pull(transfer, wanted.pull(), *arena).has_value());
    if (sleep) {
      std::uint64_t one = 0;
      CHECK_EQ(read(event.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
    } else {
      while (!transfer.done()) {
      }
    }
    const std::int64_t seen = kClock.now().time_since_epoch().count();
    us[sleep ? 1 : 0].push_back(static_cast<double>(seen - peer.path->at.load()) / 1e3);
  }
  for (auto& values : us) std::ranges::sort(values);
  fmt::print(
      "{{\"mode\": \"latency\", \"spin_us\": {:.3f}, \"spin_p99_us\": {:.3f}, "
      "\"eventfd_us\": {:.3f}, \"eventfd_p99_us\": {:.3f}}}\n",
      us[0][us[0].size() / 2], us[0][us[0].size() * 99 / 100], us[1][us[1].size() / 2],
      us[1][us[1].size() * 99 / 100]);
}

void death_row(bool tcp) {
  std::vector<double> noticed;
  std::vector<double> settled;
  std::size_t arrived_min = SIZE_MAX;
  std::size_t arrived_max = 0;
  const std::uint32_t block = 16384;
  const auto to = Arena::create(layout_of(block), MemoryKind::kPrivate).value();
  for (int round = 0; round < kRounds; ++round) {
    Owner owner(block, false);
    CopyPool pool(1);
    const auto peer = Peer::connect(owner.address(tcp, 2), pool, kClock).value();
    Wanted wanted(layout_of(block).slots, 5);
    Transfer transfer;
    CHECK(peer->pull(transfer, wanted.pull(), *to).has_value());
    std::this_thread::sleep_for(20ms);  // it is in the middle then
    const TimePoint start = kClock.now();
    owner.strike();
    // Asleep in between: the owner needs a core to die on.
    while (!transfer.done()) std::this_thread::sleep_for(100us);
    settled.push_back(seconds(start) * 1e3);
    while (peer->alive()) std::this_thread::sleep_for(100us);
    noticed.push_back(seconds(start) * 1e3);
    for (std::size_t i = 0; i < wanted.status.size(); ++i) {
      const bool arrived = wanted.status[i] == BlockStatus::kArrived;
      if (arrived && i % 64 == 0) CHECK(to->verify(wanted.to[i], wanted.keys[i]));
    }
    arrived_min = std::min<std::size_t>(arrived_min, transfer.arrived());
    arrived_max = std::max<std::size_t>(arrived_max, transfer.arrived());
  }
  fmt::print(
      "{{\"mode\": \"death\", \"over\": \"{}\", \"blocks\": {}, \"noticed_ms\": {:.2f}, "
      "\"noticed_max_ms\": {:.2f}, \"settled_max_ms\": {:.2f}, \"arrived_min\": {}, "
      "\"arrived_max\": {}}}\n",
      tcp ? "tcp" : "shared", layout_of(block).slots, median(noticed), std::ranges::max(noticed),
      std::ranges::max(settled), arrived_min, arrived_max);
}

void checksum_rows() {
  Memory from = pool(kPoolBytes);
  Memory to = pool(kPoolBytes);
  write_pattern(from.data(), kPoolBytes);
  const auto rate = [&](const char* what, std::uint32_t block, bool cold,
                        const std::function<Checksum(std::byte*, const std::byte*)>& work) {
    const auto count = static_cast<std::uint32_t>(kPoolBytes / block);
    const auto a = shuffled(count, 1);
    const auto b = shuffled(count, 2);
    std::vector<double> rates;
    Checksum sum = 0;
    for (int round = 0; round < kRounds; ++round) {
      const TimePoint start = kClock.now();
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint64_t x = cold ? std::uint64_t{a[i]} * block : 0;
        const std::uint64_t y = cold ? std::uint64_t{b[i]} * block : 0;
        sum += work(to.data() + y, from.data() + x);
      }
      rates.push_back(static_cast<double>(kPoolBytes) / seconds(start) / 1e9);
    }
    fmt::print(
        "{{\"mode\": \"checksum\", \"what\": \"{}\", \"cold\": {}, \"block\": {}, "
        "\"GBps\": {:.2f}, \"sum\": {}}}\n",
        what, cold, block, median(rates), sum);
  };
  for (const std::uint32_t block : {4096U, 16384U, 65536U, 1U << 20}) {
    for (const bool cold : {false, true}) {
      rate("memcpy", block, cold, [&](std::byte* y, const std::byte* x) {
        std::memcpy(y, x, block);
        return Checksum{0};
      });
      rate("checksum", block, cold,
           [&](std::byte* /*y*/, const std::byte* x) { return checksum(x, block); });
      rate("copy and sum, cached", block, cold, [&](std::byte* y, const std::byte* x) {
        return copy_and_sum(y, x, block, Stores::kCached);
      });
      rate("copy and sum, streaming", block, cold, [&](std::byte* y, const std::byte* x) {
        return copy_and_sum(y, x, block, Stores::kStreaming);
      });
    }
  }
}

}  // namespace

int main(int count, char** words) {
  const std::string mode = count > 1 ? words[1] : "";
  const auto number = [&](int at, std::uint64_t otherwise) {
    return static_cast<std::uint32_t>(count > at ? std::strtoull(words[at], nullptr, 10)
                                                 : otherwise);
  };
  const std::uint32_t block = number(2, 16384);
  if (mode == "memory") {
    memory_row(block);
  } else if (mode == "shared" || mode == "cma" || mode == "tcp") {
    pull_rows(mode, block, number(3, mode == "tcp" ? 2 : 1));
  } else if (mode == "sockets") {
    sockets_row(block, number(3, 2));
  } else if (mode == "submit") {
    submit_row();
  } else if (mode == "latency") {
    latency_row();
  } else if (mode == "death") {
    death_row(false);
    death_row(true);
  } else if (mode == "checksum") {
    checksum_rows();
  } else {
    fmt::print(stderr,
               "transfer_rows memory|shared|cma|tcp|sockets BLOCK_BYTES [THREADS]\n"
               "transfer_rows submit|latency|death|checksum\n");
    return 2;
  }
  return 0;
}
