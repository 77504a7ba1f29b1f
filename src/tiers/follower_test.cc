#include <gtest/gtest.h>

#include <array>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::key_of;
using testing::Picture;
using News = Store::Follower::News;

constexpr std::uint64_t kHostSlots = 64;

class FollowerTest : public ::testing::Test {
 protected:
  void SetUp() override { open(); }
  void open() {
    store.reset();
    Options options = testing::small_store(folder.path(), faults, 1000);
    options.host_bytes = kHostSlots * testing::kRecordBytes;
    store = Store::open(options, clock).value();
  }
  void put(std::uint64_t i, Keep keep) const {
    ASSERT_TRUE(testing::put(*store, i, keep));
    ASSERT_TRUE(store->flush(20s));
  }

  testing::Folder folder;
  std::shared_ptr<testing::Faults> faults = std::make_shared<testing::Faults>();
  testing::TestClock clock;
  std::unique_ptr<Store> store;
};

TEST_F(FollowerTest, TellsAllThatIsThereAndThenWhatMoves) {
  Store::Follower follower(*store);
  Picture picture;
  picture.follow(follower);
  EXPECT_EQ(picture.times_anew, 1U);  // nothing is all of it
  EXPECT_EQ(picture.told, 0U);

  put(1, Keep::kHeld);
  picture.follow(follower);
  EXPECT_EQ(picture.of(1), Tier::kHost);
  for (std::uint64_t i = 100; store->in_host(key_of(1)); ++i) put(i, Keep::kHeld);
  picture.follow(follower);
  EXPECT_EQ(picture.of(1), Tier::kDisk);  // evicted

  const std::array keys{key_of(1)};
  Store::Fetch fetch = store->fetch(keys, Deadline());
  ASSERT_TRUE(fetch.wait(20s));
  picture.follow(follower);
  EXPECT_EQ(picture.of(1), Tier::kHost);
  EXPECT_EQ(picture.times_anew, 1U);
  News news;
  EXPECT_FALSE(follower.read(100, news));
}

TEST_F(FollowerTest, AfterAStartItTellsWhatIsOnDisk) {
  for (std::uint64_t i = 0; i < 50; ++i) put(i, Keep::kWritten);
  open();
  Store::Follower follower(*store);
  Picture picture;
  picture.follow(follower, 7);
  EXPECT_EQ(picture.tiers.size(), 50U);
  EXPECT_EQ(picture.told, 50U);
  for (std::uint64_t i = 0; i < 50; ++i) EXPECT_EQ(picture.of(i), Tier::kDisk) << i;
}

TEST_F(FollowerTest, ABlockThatIsLostIsToldAsLost) {
  put(1, Keep::kWritten);
  open();
  Store::Follower follower(*store);
  Picture picture;
  picture.follow(follower);
  ASSERT_EQ(picture.of(1), Tier::kDisk);
  faults->read_error = EIO;
  const std::array keys{key_of(1)};
  ASSERT_TRUE(store->fetch(keys, Deadline()).wait(20s));
  picture.follow(follower);
  EXPECT_EQ(picture.of(1), std::nullopt);
}

TEST_F(FollowerTest, ABlockThatIsBadInMemoryIsToldAsLost) {
  auto place = store->reserve(key_of(1), testing::kRecomputeNs, Keep::kHeld);
  const std::span<std::byte> bytes = place.bytes();
  std::ranges::copy(testing::block_of(1), bytes.begin());
  place.commit();
  Store::Follower follower(*store);
  Picture picture;
  picture.follow(follower);
  ASSERT_EQ(picture.of(1), Tier::kHost);
  bytes[7] ^= std::byte{1};
  const std::array keys{key_of(1)};
  Store::Fetch fetch = store->fetch(keys, Deadline());
  const std::vector<Store::Pin> pins = fetch.take();
  ASSERT_EQ(pins.size(), 1U);
  std::vector<std::byte> to(testing::kBlockBytes);
  EXPECT_FALSE(pins[0].copy_to(to));
  picture.follow(follower);
  EXPECT_EQ(picture.of(1), std::nullopt);
}

/// The index grows meanwhile, and is listed from its beginning again.
TEST_F(FollowerTest, WhatMovesWhileAllIsListedIsToldRight) {
  for (std::uint64_t i = 0; i < 40; ++i) put(i, Keep::kHeld);
  Store::Follower follower(*store);
  Picture picture;
  News news;
  for (std::uint64_t i = 40; i < 300; ++i) {
    if (follower.read(2, news)) picture.take(news);
    put(i, Keep::kHeld);
  }
  picture.follow(follower, 2);
  EXPECT_EQ(picture.times_anew, 1U);
  for (std::uint64_t i = 0; i < 300; ++i) {
    EXPECT_EQ(picture.of(i), testing::tier_of(*store, i)) << i;
  }
}

TEST_F(FollowerTest, WhoIsTooFarBehindIsToldAllAnew) {
  put(1, Keep::kWritten);
  Store::Follower slow(*store);
  Picture picture;
  picture.follow(slow);
  // Each comes and goes, not worth the disk: more moves than a store keeps in mind.
  constexpr double kCheapNs = 1;
  for (std::uint64_t i = 0; i < 40'000; ++i) {
    auto place = store->reserve(key_of(1000 + i % 1000), kCheapNs, Keep::kHeld);
    ASSERT_TRUE(place);
    place.commit();
  }
  picture.follow(slow);
  EXPECT_EQ(picture.times_anew, 2U);
  EXPECT_EQ(picture.tiers.size(), kHostSlots + 1);
  EXPECT_EQ(picture.of(1), Tier::kDisk);
}

}  // namespace
}  // namespace penstock::tiers
