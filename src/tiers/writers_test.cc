// Several threads write, each to a segment of its own, and several read.
#include <gtest/gtest.h>

#include <thread>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::key_of;
using testing::kRecomputeNs;
using transfer::FileOp;

constexpr std::uint32_t kSegments = 16;  // enough for all writers
constexpr std::uint64_t kBlocks = 8 * kSegments;

/// Holds threads whose operations are of a kind, until they are let go.
class Hold {
 public:
  explicit Hold(std::function<bool(std::span<const FileOp>)> is_held) : is_held_(is_held) {}
  void pass(std::span<const FileOp> ops) {
    if (!is_held_(ops)) return;
    waits_ = true;
    held_.wait(true);
  }
  void let_go() {
    held_ = false;
    held_.notify_all();
  }
  [[nodiscard]] bool waits() const { return waits_; }

 private:
  const std::function<bool(std::span<const FileOp>)> is_held_;
  std::atomic<bool> held_{true};
  std::atomic<bool> waits_{false};
};

/// Notes how much lies in a folder.
struct FolderSize {
  std::string path;
  std::atomic<std::uint64_t> max_bytes{0};

  void look() {
    std::uint64_t bytes = 0;
    std::error_code error;
    for (std::filesystem::directory_iterator file(path, error), end; !error && file != end;
         file.increment(error)) {
      std::error_code gone;
      const std::uint64_t size = file->file_size(gone);
      if (!gone) bytes += size;
    }
    std::uint64_t seen = max_bytes;
    while (bytes > seen && !max_bytes.compare_exchange_weak(seen, bytes)) {
    }
  }
};

class WatchedIo final : public BlockIo {
 public:
  WatchedIo(std::vector<std::shared_ptr<Hold>> holds, std::shared_ptr<FolderSize> size,
            std::unique_ptr<BlockIo> io)
      : holds_(std::move(holds)), size_(std::move(size)), io_(std::move(io)) {}

  void run(std::span<FileOp> ops) override {
    for (const auto& hold : holds_) hold->pass(ops);
    io_->run(ops);
  }
  int sync(int fd) override { return io_->sync(fd); }
  int allocate(int fd, std::uint64_t size_bytes) override {
    const int error = io_->allocate(fd, size_bytes);
    size_->look();
    return error;
  }

 private:
  std::vector<std::shared_ptr<Hold>> holds_;
  std::shared_ptr<FolderSize> size_;
  std::unique_ptr<BlockIo> io_;
};

bool writes_records(std::span<const FileOp> ops) {
  return ops.front().kind == FileOp::Kind::kWrite &&
         ops.front().size_bytes == testing::kRecordBytes;
}

auto reads(std::size_t blocks) {
  return [blocks](std::span<const FileOp> ops) {
    return !ops.front().checked.empty() && ops.size() == blocks;  // not a recovery's
  };
}

class Writers : public ::testing::Test {
 protected:
  /// The first `threads` of its own that the store asks for I/O are held; writers come first.
  void open(const std::vector<std::shared_ptr<Hold>>& holds = {}, int threads = 100) {
    options.io = [make = plain, holds, threads, this]() mutable {
      auto io = make();
      const auto mine = threads-- > 0 ? holds : std::vector<std::shared_ptr<Hold>>();
      *io = std::make_unique<WatchedIo>(mine, size, std::move(*io));
      return io;
    };
    store.reset();
    store = Store::open(options, clock).value();
  }
  void ask(std::uint64_t i, int times) {
    const std::array keys{key_of(i)};
    for (int n = 0; n < times; ++n) (void)store->choose(keys, 0, kRecomputeNs);
  }
  /// The next block. False: it is not worth it.
  bool put_next(double worth) {
    auto place = store->reserve(key_of(next), worth * kRecomputeNs, Keep::kWritten);
    const std::uint64_t i = next++;
    if (!place) return false;
    std::ranges::copy(testing::block_of(i), place.bytes().begin());
    place.commit();
    return true;
  }
  /// Each is worth more than those before, which go for it.
  bool put_worthier() {
    ask(next, 3);
    return put_next(static_cast<double>(next + 1));
  }
  [[nodiscard]] bool has(std::uint64_t i) const { return store->on_disk(key_of(i)); }

  testing::Folder folder;
  testing::TestClock clock;
  std::shared_ptr<FolderSize> size = std::make_shared<FolderSize>(folder.path());
  Options options =
      testing::small_store(folder.path(), std::make_shared<testing::Faults>(), kSegments);
  const MakeBlockIo plain = options.io;
  std::unique_ptr<Store> store;
  std::uint64_t next = 0;
};

TEST_F(Writers, WhatOneFillsIsNotDroppedWhileTheOtherGoesOn) {
  const auto hold = std::make_shared<Hold>(writes_records);
  open({hold}, 1);
  std::uint64_t held = 0;
  while (!hold->waits()) {
    held = next;
    ASSERT_TRUE(put_worthier());
    while (!hold->waits() && !has(held)) std::this_thread::yield();
  }
  while (store->stats().segments_dropped < 20) {
    ASSERT_LT(next, 2000U);
    if (!put_worthier()) continue;
    while (!has(next - 1)) std::this_thread::yield();
  }
  EXPECT_FALSE(has(held));
  hold->let_go();
  ASSERT_TRUE(store->flush(20s));
  EXPECT_TRUE(has(held));

  // The one that was begun first is not the one to go next.
  std::vector<std::uint64_t> newest;
  while (newest.size() < 40) {
    ASSERT_LT(next, 4000U);
    if (put_worthier()) newest.push_back(next - 1);
    ASSERT_TRUE(store->flush(20s));
  }
  for (const std::uint64_t i : newest) EXPECT_TRUE(has(i)) << i;

  std::vector<std::uint64_t> there;
  for (std::uint64_t i = 0; i < next; ++i) {
    if (has(i)) there.push_back(i);
  }
  open();
  for (const std::uint64_t i : there) EXPECT_TRUE(has(i)) << i;
}

TEST_F(Writers, AScanDoesNotTakeThePlaceOfWhatIsAskedFor) {
  open();
  while (next < kBlocks) {
    ask(next, 3);
    ASSERT_TRUE(put_next(100));
    ASSERT_TRUE(store->flush(20s));
  }
  constexpr std::uint64_t kScanned = 600;
  std::uint64_t taken = 0;
  for (std::uint64_t n = 0; n < kScanned; ++n) {
    for (std::uint64_t i = 0; n % 4 == 0 && i < kBlocks; ++i) ask(i, 1);
    ask(next, 1);
    taken += put_next(1) ? 1 : 0;
    ASSERT_TRUE(store->flush(20s));
  }
  std::uint64_t kept = 0;
  for (std::uint64_t i = 0; i < kBlocks; ++i) kept += has(i) ? 1 : 0;
  EXPECT_LT(taken, kScanned / 4);
  EXPECT_GT(kept, 0U);
}

TEST_F(Writers, FilesNeverExceedTheBudget) {
  options.host_bytes = 256 * testing::kRecordBytes;
  open();
  for (std::uint64_t taken = 0; taken < 4000;) {
    ASSERT_LT(next, 1'000'000U);
    taken += put_worthier() ? 1 : 0;
  }
  ASSERT_TRUE(store->flush(20s));
  EXPECT_LE(size->max_bytes, options.disk_bytes);
}

TEST_F(Writers, LargerSegmentsThatWereFoundCanGo) {
  const Options small = options;
  options.segment_bytes = 128 * testing::kRecordBytes;
  options.disk_bytes =
      kSegments * Geometry::of(testing::kBlockBytes, options.segment_bytes).segment_bytes;
  open();
  while (folder.segments().size() < 2) {
    ASSERT_LT(next, 5000U);
    put_next(1);
  }
  ASSERT_TRUE(store->flush(20s));
  options = small;
  open();
  EXPECT_LE(store->stats().disk_bytes, options.disk_bytes);
}

TEST_F(Writers, AReadThatWaitsBesideManyIsNotWhatABlockCosts) {
  const auto many = std::make_shared<Hold>(reads(8));
  const auto one = std::make_shared<Hold>(reads(1));
  open({many, one});
  while (next < 9) {
    ASSERT_TRUE(put_next(1));
    ASSERT_TRUE(store->flush(20s));
  }
  open({many, one});
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < 9; ++i) keys.push_back(key_of(i));
  const auto fetch = [&](std::size_t from, std::size_t count) {
    return store->fetch(std::span(keys).subspan(from, count), Deadline(clock.now() + 1h));
  };
  Store::Fetch large = fetch(0, 8);
  while (!many->waits()) std::this_thread::yield();
  Store::Fetch small = fetch(8, 1);
  while (!one->waits()) std::this_thread::yield();
  clock.advance(9ms);
  one->let_go();
  EXPECT_TRUE(small.wait(20s));
  EXPECT_LT(store->costs(1e12).disk_ns, 1e6);  // nothing is known yet
  many->let_go();
  EXPECT_TRUE(large.wait(20s));
  EXPECT_DOUBLE_EQ(store->costs(1e12).disk_ns, 1e6);
}

}  // namespace
}  // namespace penstock::tiers
