// One row of the transfer library's benchmark as a line of JSON:
//   transfer_rows memory|shared|cma|tcp|sockets|tuned|staged BLOCK_BYTES [THREADS]
//   transfer_rows submit|latency|death|checksum
// Pools are larger than the last-level cache, blocks go in a random order to a random order of
// slots, a transfer's creation is inside its time, and what arrived is looked at. See
// bench_transfer.py.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/counted_new.h"
#include "base/rng.h"
#include "measure.h"
#include "transfer/checksum.h"
#include "transfer/host_server.h"
#include "transfer/peer.h"
#include "transfer/tcp_server.h"

namespace {

using namespace penstock;
using namespace penstock::transfer;
using namespace penstock::transfer::measure;
using namespace std::chrono_literals;

const std::string kSecret = "a secret for measurements only";
const GrantId kFirstGrant{0, 1};

BlockKey key_of(std::uint32_t slot) { return {mix64(slot), slot}; }
Layout layout_of(std::uint32_t block) {
  return Layout::by_block(static_cast<std::uint32_t>(kPoolBytes / block), 1, block);
}

/// An owner of a whole pool in a process of its own, killed at the end.
class Owner {
 public:
  /// `kind`: kForeign stands for memory that others cannot map.
  Owner(std::uint32_t block, MemoryKind kind)
      : path_("/tmp/penstock-bench-" + std::to_string(getpid())) {
    std::array<int, 2> ends{};
    CHECK_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    pid_ = fork();
    if (pid_ == 0) own(block, kind, ends[1]);
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
  [[noreturn]] void own(std::uint32_t block, MemoryKind kind, int ready) {
    const Layout layout = layout_of(block);
    const bool foreign = kind == MemoryKind::kForeign;
    Memory theirs = foreign ? pool(kPoolBytes) : Memory();
    auto arena =
        foreign ? Arena::adopt(layout, {theirs.data(), kPoolBytes}) : Arena::create(layout, kind);
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
  Owner owner(block, mode == "cma"   ? MemoryKind::kForeign
                     : mode == "tcp" ? MemoryKind::kPrivate
                                     : MemoryKind::kShared);
  Floor floor(block);
  const auto to = Arena::create(layout_of(block), MemoryKind::kPrivate).value();
  CopyPool pool(threads);
  const auto peer = Peer::connect(owner.address(mode == "tcp", threads), pool, kClock).value();
  CHECK(to_string(peer->paths()[0]->kind()) == mode);
  const Fd over(eventfd(0, EFD_CLOEXEC));
  std::vector<double> rates;
  std::vector<double> ratios;
  std::vector<double> floors;
  for (int round = -1; round < kRounds; ++round) {
    Wanted wanted(layout_of(block).slots, 2 * static_cast<std::uint64_t>(round + 2));
    const double base = floor.gb_per_s(7 + static_cast<std::uint64_t>(round + 2));
    const TimePoint start = kClock.now();
    Transfer transfer;
    transfer.eventfd = over.get();
    CHECK(peer->pull(transfer, wanted.pull(), *to).has_value());
    std::uint64_t one = 0;
    CHECK_EQ(read(over.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
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
    Owner owner(block, MemoryKind::kShared);
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
  } else if (mode == "sockets" || mode == "tuned" || mode == "staged") {
    sockets_row(block, number(3, 2), mode);
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
               "transfer_rows memory|shared|cma|tcp|sockets|tuned|staged BLOCK_BYTES "
               "[THREADS]\n"
               "transfer_rows submit|latency|death|checksum\n");
    return 2;
  }
  return 0;
}
