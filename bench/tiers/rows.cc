// One row of bench/tiers: the disk tier beside the same disk's raw io_uring figure, on the same
// folder in the same run, by turns. Prints medians of the rounds as JSON.
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <numeric>

#include "base/check.h"
#include "base/rng.h"
#include "tiers/internal/segment.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;

constexpr unsigned kDepth = 32;
constexpr int kRounds = 5;
constexpr int kRecoveries = 15;
constexpr std::uint64_t kMib = 1 << 20;
constexpr double kRecomputeNs = 1e12;  // always worth it

double seconds_since(TimePoint start) {
  return std::chrono::duration<double>(SteadyClock().now() - start).count();
}

Key key_of(std::uint64_t i) { return next_key(root_key("bench", ""), std::vector{Token(i)}); }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::vector<std::uint32_t> shuffled(std::uint32_t count, Rng& rng) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (std::uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

/// All blocks of `file` in this order with the queue kept full, from and to memory of all of them,
/// as a store has: a few buffers would stay in a cache. Nothing is looked at. Bytes/s.
double raw(int file, std::span<const std::uint32_t> order, std::uint64_t size, bool writes) {
  io_uring ring{};
  // As transfer::FileRing has it.
  if (io_uring_queue_init(kDepth, &ring, IORING_SETUP_COOP_TASKRUN) != 0) {
    CHECK_EQ(io_uring_queue_init(kDepth, &ring, 0), 0);
  }
  PageBuffer memory(order.size() * size);
  std::memset(memory.data(), 1, order.size() * size);
  const TimePoint start = SteadyClock().now();
  std::size_t begun = 0;
  std::size_t ended = 0;
  while (ended < order.size()) {
    while (begun < order.size() && begun - ended < kDepth) {
      io_uring_sqe* entry = io_uring_get_sqe(&ring);
      std::byte* const at = memory.data() + begun * size;
      const std::uint64_t offset = order[begun++] * size;
      const auto bytes = static_cast<unsigned>(size);
      if (writes) {
        io_uring_prep_write(entry, file, at, bytes, offset);
      } else {
        io_uring_prep_read(entry, file, at, bytes, offset);
      }
    }
    io_uring_submit_and_wait(&ring, 1);
    io_uring_cqe* done = nullptr;
    while (io_uring_peek_cqe(&ring, &done) == 0) {
      CHECK_EQ(done->res, static_cast<int>(size));
      io_uring_cqe_seen(&ring, done);
      ++ended;
    }
  }
  if (writes) CHECK_EQ(fdatasync(file), 0);
  const double rate = static_cast<double>(order.size() * size) / seconds_since(start);
  io_uring_queue_exit(&ring);
  return rate;
}

struct Bench {
  std::string folder;
  std::uint32_t block_bytes;
  std::uint32_t blocks;

  Options options() const {
    Options made;
    made.compatibility = "bench";
    made.block_bytes = block_bytes;
    made.host_bytes = std::max<std::uint64_t>(256 * kMib, 16ULL * block_bytes);
    made.disk_folder = folder + "/store";
    made.disk_bytes = 3 * (blocks + 64ULL) * Geometry::of(block_bytes, kMib).record_bytes;
    return made;
  }
};

/// Takes all host memory into use, as that of a store that has run for a while is: the first touch
/// of a page costs more than a copy into it.
void touch_memory(Store& store, const Bench& bench) {
  const std::uint64_t slots = bench.options().host_bytes / bench.block_bytes;
  for (std::uint64_t i = 0; i < slots; ++i) {
    auto place = store.reserve(key_of(~i), 1, Keep::kHeld);  // not worth a place on disk
    if (!place) continue;
    std::ranges::fill(place.bytes(), std::byte{1});
    place.commit();
  }
}

/// Blocks from `first` on, each of other bytes. Bytes/s until the last is on disk.
double write_blocks(Store& store, const Bench& bench, std::uint64_t first) {
  std::vector<std::byte> block(bench.block_bytes, std::byte{0x5a});
  const TimePoint start = SteadyClock().now();
  for (std::uint64_t i = first; i < first + bench.blocks;) {
    if (auto place = store.reserve(key_of(i), kRecomputeNs, Keep::kWritten)) {
      std::memcpy(block.data(), &i, sizeof i);
      std::ranges::copy(block, place.bytes().begin());
      place.commit();
      ++i;
    } else {
      usleep(200);  // as many wait as may
    }
  }
  CHECK(store.flush(60s));
  return static_cast<double>(bench.blocks) * bench.block_bytes / seconds_since(start);
}

/// All of them into host memory, verified; as a prefix of 32 blocks each.
double read_blocks(Store& store, const Bench& bench, std::span<const std::uint32_t> order) {
  constexpr std::size_t kRun = 32;
  const TimePoint start = SteadyClock().now();
  std::deque<Store::Fetch> under_way;
  std::uint64_t came = 0;
  const auto take_first = [&] {
    while (!under_way.front().wait(1s)) {
    }
    came += under_way.front().take().size();
    under_way.pop_front();
  };
  for (std::size_t at = 0; at < order.size(); at += kRun) {
    std::vector<Key> keys;
    for (std::size_t i = at; i < std::min(at + kRun, order.size()); ++i) {
      keys.push_back(key_of(order[i]));
    }
    if (under_way.size() == 4) take_first();
    under_way.push_back(store.fetch(keys, Deadline()));
  }
  while (!under_way.empty()) take_first();
  CHECK_EQ(came, order.size());
  return static_cast<double>(came) * bench.block_bytes / seconds_since(start);
}

void disk_row(const Bench& bench) {
  const SteadyClock clock;
  const std::uint64_t size = Geometry::of(bench.block_bytes, kMib).record_bytes;
  std::array<std::vector<double>, 4> rates;
  Rng rng(1);
  for (int round = 0; round < kRounds; ++round) {
    std::filesystem::remove_all(bench.folder + "/store");
    const std::string path = bench.folder + "/raw";
    const transfer::Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
    CHECK_EQ(posix_fallocate(file.get(), 0, static_cast<off_t>(bench.blocks * size)), 0);
    std::vector<std::uint32_t> in_order(bench.blocks);
    std::iota(in_order.begin(), in_order.end(), 0);
    rates[0].push_back(raw(file.get(), in_order, size, true));
    {
      auto store = Store::open(bench.options(), clock).value();
      touch_memory(*store, bench);
      rates[1].push_back(write_blocks(*store, bench, 0));
    }
    auto store = Store::open(bench.options(), clock).value();
    touch_memory(*store, bench);
    const std::vector<std::uint32_t> order = shuffled(bench.blocks, rng);
    const auto read_raw = [&] { rates[2].push_back(raw(file.get(), order, size, false)); };
    if (round % 2 == 0) read_raw();
    rates[3].push_back(read_blocks(*store, bench, order));
    if (round % 2 == 1) read_raw();
    ::unlink(path.c_str());
  }
  fmt::print(R"({{"block_bytes": {}, "blocks": {}, "raw_write": {:.3f}, "write": {:.3f}, )"
             R"("raw_read": {:.3f}, "read": {:.3f}, "unit": "GB/s"}})"
             "\n",
             bench.block_bytes, bench.blocks, median(rates[0]) / 1e9, median(rates[1]) / 1e9,
             median(rates[2]) / 1e9, median(rates[3]) / 1e9);
}

/// Has what the page cache holds of the store's files go. Beside O_DIRECT it holds nothing, but a
/// file system may not know that.
void make_cold(const std::string& store) {
  for (const auto& entry : std::filesystem::directory_iterator(store)) {
    const transfer::Fd file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    CHECK_EQ(posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED), 0);
  }
}

/// Removes the segments that were being filled: how much of them has to be read is chance, and says
/// nothing of how long a larger disk takes. How many are left.
std::uint64_t keep_sealed(const Bench& bench, const Geometry& geometry) {
  std::uint64_t sealed = 0;
  for (const auto& entry : std::filesystem::directory_iterator(bench.options().disk_folder)) {
    if (entry.path().extension() != ".segment") continue;
    const transfer::Fd file(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    FooterHeader footer;
    CHECK_EQ(pread(file.get(), &footer, sizeof footer, static_cast<off_t>(geometry.footer_at)),
             static_cast<ssize_t>(sizeof footer));
    if (is_whole(footer)) {
      ++sealed;
    } else {
      std::filesystem::remove(entry.path());
    }
  }
  return sealed;
}

/// How long a store of about so many blocks takes to be found again, from footers.
void recovery_row(const Bench& bench) {
  const Geometry geometry = Geometry::of(bench.block_bytes, bench.options().segment_bytes);
  const SteadyClock clock;
  std::filesystem::remove_all(bench.folder + "/store");
  {
    auto store = Store::open(bench.options(), clock).value();
    write_blocks(*store, bench, 0);
  }
  const std::uint64_t blocks = keep_sealed(bench, geometry) * geometry.records;
  std::vector<double> times;
  std::uint64_t bytes = 0;
  for (int round = 0; round < kRecoveries; ++round) {
    make_cold(bench.options().disk_folder);
    const Stats found = Store::open(bench.options(), clock).value()->stats();
    CHECK_EQ(found.recovered_blocks, blocks);
    times.push_back(found.recovery_ms);
    bytes = found.disk_bytes;
  }
  fmt::print(R"({{"block_bytes": {}, "disk_gib": {:.2f}, "ms": {:.1f}, "ms_min": {:.1f}, )"
             R"("ms_max": {:.1f}}})"
             "\n",
             bench.block_bytes, static_cast<double>(bytes) / (1 << 30), median(times),
             std::ranges::min(times), std::ranges::max(times));
}

}  // namespace
}  // namespace penstock::tiers

int main(int count, char** words) {
  using namespace penstock::tiers;
  const std::string mode = count > 4 ? words[1] : "";
  if (mode != "disk" && mode != "recovery") {
    fmt::print(stderr, "tiers_rows disk|recovery FOLDER BLOCK_BYTES MIB\n");
    return 2;
  }
  const auto number = [&](int at) { return std::strtoull(words[at], nullptr, 10); };
  const auto block_bytes = static_cast<std::uint32_t>(number(3));
  const Bench bench{words[2], block_bytes,
                    static_cast<std::uint32_t>(number(4) * (1 << 20) / block_bytes)};
  mode == "disk" ? disk_row(bench) : recovery_row(bench);
  std::filesystem::remove_all(bench.folder + "/store");
  return 0;
}
