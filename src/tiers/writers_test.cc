// Several threads write, each to a segment of its own.
#include <gtest/gtest.h>

#include <thread>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::key_of;
using transfer::FileOp;

/// Holds a thread as soon as it writes a record, until it is let go.
class HeldIo final : public BlockIo {
 public:
  struct Hold {
    std::atomic<bool> held{true};
    std::atomic<bool> waits{false};
    void let_go() {
      held = false;
      held.notify_all();
    }
  };
  HeldIo(std::shared_ptr<Hold> hold, std::unique_ptr<BlockIo> io)
      : hold_(std::move(hold)), io_(std::move(io)) {}

  void run(std::span<FileOp> ops) override {
    if (ops.front().kind == FileOp::Kind::kWrite &&
        ops.front().size_bytes == testing::kRecordBytes) {
      hold_->waits = true;
      hold_->held.wait(true);
    }
    io_->run(ops);
  }
  int sync(int fd) override { return io_->sync(fd); }
  int allocate(int fd, std::uint64_t size_bytes) override { return io_->allocate(fd, size_bytes); }

 private:
  std::shared_ptr<Hold> hold_;
  std::unique_ptr<BlockIo> io_;
};

TEST(Writers, WhatOneFillsIsNotDroppedWhileTheOtherGoesOn) {
  testing::Folder folder;
  const testing::TestClock clock;
  const auto hold = std::make_shared<HeldIo::Hold>();
  Options options =
      testing::small_store(folder.path(), std::make_shared<testing::Faults>(), /*segments=*/16);
  options.io = [make = options.io, hold, first = true]() mutable {
    auto io = make();
    if (std::exchange(first, false)) *io = std::make_unique<HeldIo>(hold, std::move(*io));
    return io;
  };
  auto store = Store::open(options, clock).value();
  std::uint64_t next = 0;
  const auto put = [&] {  // false: not worth it
    const std::array keys{key_of(next)};
    for (int n = 0; n < 3; ++n) (void)store->choose(keys, 0, testing::kRecomputeNs);
    // Each is worth more than those before, which go for it.
    auto place = store->reserve(keys[0], double(++next) * testing::kRecomputeNs, Keep::kWritten);
    if (!place) return false;
    std::ranges::copy(testing::block_of(next - 1), place.bytes().begin());
    place.commit();
    return true;
  };
  std::uint64_t held = 0;
  while (!hold->waits) {
    held = next;
    ASSERT_TRUE(put());
    while (!hold->waits && !store->on_disk(key_of(held))) std::this_thread::yield();
  }
  while (store->stats().segments_dropped < 20) {
    ASSERT_LT(next, 2000U);
    if (!put()) continue;
    while (!store->on_disk(key_of(next - 1))) std::this_thread::yield();
  }
  EXPECT_LE(store->stats().disk_bytes, store->stats().disk_bytes_max);
  EXPECT_FALSE(store->on_disk(key_of(held)));
  hold->let_go();
  ASSERT_TRUE(store->flush(20s));
  EXPECT_TRUE(store->on_disk(key_of(held)));

  std::vector<std::uint64_t> there;
  for (std::uint64_t i = 0; i < next; ++i) {
    if (store->on_disk(key_of(i))) there.push_back(i);
  }
  store.reset();
  store = Store::open(options, clock).value();
  for (const std::uint64_t i : there) EXPECT_TRUE(store->on_disk(key_of(i))) << i;
}

}  // namespace
}  // namespace penstock::tiers
