#include "tiers/store.h"

#include "tiers/for_test.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;
using testing::block_of;
using testing::key_of;
using testing::kRecomputeNs;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() { open(); }

  void open() { open(testing::small_store(folder.path(), faults)); }
  void open(const Options& options) {
    store.reset();
    store = Store::open(options, clock).value();
  }
  /// True if the store took it.
  bool put(std::uint64_t i, Keep keep = Keep::kWritten) {
    auto place = store->reserve(key_of(i), kRecomputeNs, keep);
    if (!place) return false;
    std::ranges::copy(block_of(i), place.bytes().begin());
    place.commit();
    return true;
  }
  void put_on_disk(std::uint64_t i) {
    ASSERT_TRUE(put(i));
    ASSERT_TRUE(store->flush(20s));
  }
  /// Whether it was given; what is given must be right.
  bool get(std::uint64_t i) {
    const std::array keys{key_of(i)};
    Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 1h));
    EXPECT_TRUE(fetch.wait(20s));
    const std::vector<Store::Pin> pins = fetch.take();
    if (pins.empty()) return false;
    std::vector<std::byte> to(testing::kBlockBytes);
    if (!pins[0].copy_to(to)) return false;
    EXPECT_EQ(to, block_of(i));
    return true;
  }
  /// Pushes everything that can go out of host memory.
  void fill_host() {
    std::vector<Store::Reservation> all;
    for (std::uint64_t i = 0; i < 16; ++i) {
      all.push_back(store->reserve(key_of(1'000'000 + i), kRecomputeNs, Keep::kHeld));
    }
  }
  std::uint64_t missed(Reason reason) {
    return store->stats().missed[static_cast<std::size_t>(reason)];
  }
  std::uint64_t refused(Reason reason) {
    return store->stats().refused[static_cast<std::size_t>(reason)];
  }

  testing::Folder folder;
  std::shared_ptr<testing::Faults> faults = std::make_shared<testing::Faults>();
  testing::TestClock clock;
  std::unique_ptr<Store> store;
};

TEST_F(StoreTest, ABlockIsThereAfterItsCommitAndNotBefore) {
  auto place = store->reserve(key_of(1), kRecomputeNs, Keep::kHeld);
  ASSERT_TRUE(place);
  EXPECT_FALSE(store->reserve(key_of(1), kRecomputeNs, Keep::kHeld));  // one writer
  std::ranges::copy(block_of(1), place.bytes().begin());
  EXPECT_FALSE(get(1));
  place.commit();
  EXPECT_TRUE(store->in_host(key_of(1)));
  EXPECT_TRUE(get(1));
  EXPECT_FALSE(get(2));
}

TEST_F(StoreTest, AReservationThatIsNotCommittedLeavesNothing) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(store->reserve(key_of(1), kRecomputeNs, Keep::kHeld));
  }
  EXPECT_FALSE(get(1));
  EXPECT_TRUE(put(1));
}

TEST_F(StoreTest, WhatIsOnDiskComesBackAfterARestart) {
  for (std::uint64_t i = 0; i < 30; ++i) put_on_disk(i);
  open();
  EXPECT_EQ(store->stats().recovered_blocks, 30U);
  for (std::uint64_t i = 0; i < 30; ++i) {
    EXPECT_FALSE(store->in_host(key_of(i)));
    EXPECT_TRUE(get(i)) << i;
  }
  // The segment that was not full is filled further.
  const std::size_t files = folder.segments().size();
  put_on_disk(100);
  EXPECT_EQ(folder.segments().size(), files);
  EXPECT_TRUE(get(100));
}

TEST_F(StoreTest, OtherModelsBlocksAreNotSeenAndNotHarmed) {
  put_on_disk(1);
  Options other = testing::small_store(folder.path(), faults);
  other.compatibility = "another build";
  open(other);
  EXPECT_EQ(store->stats().incompatible_segments, 1U);
  EXPECT_FALSE(get(1));
  put_on_disk(2);
  open();
  EXPECT_TRUE(get(1));
  EXPECT_FALSE(get(2));
}

TEST_F(StoreTest, AFolderServesOneAtATime) {
  EXPECT_FALSE(Store::open(testing::small_store(folder.path(), faults), clock).has_value());
}

TEST_F(StoreTest, WhatIsInUseIsNotEvicted) {
  ASSERT_TRUE(put(1, Keep::kHeld));
  const std::array keys{key_of(1)};
  const std::vector<Store::Pin> pins = store->fetch(keys, Deadline()).take();
  ASSERT_EQ(pins.size(), 1U);
  fill_host();
  std::vector<std::byte> to(testing::kBlockBytes);
  EXPECT_TRUE(pins[0].copy_to(to));
  EXPECT_EQ(to, block_of(1));
}

TEST_F(StoreTest, WhatOnlyMemoryHasGoesToDiskBeforeItGoes) {
  for (std::uint64_t i = 0; i < 16; ++i) ASSERT_TRUE(put(i, Keep::kHeld));
  put(100, Keep::kHeld);  // takes a slot
  ASSERT_TRUE(store->flush(20s));
  std::size_t on_disk = 0;
  for (std::uint64_t i = 0; i < 16; ++i) on_disk += store->on_disk(key_of(i)) ? 1 : 0;
  EXPECT_GE(on_disk, 1U);
  fill_host();
  for (std::uint64_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(!store->on_disk(key_of(i)) || get(i));
  }
}

TEST_F(StoreTest, TheBudgetIsKeptByDroppingTheOldest) {
  open(testing::small_store(folder.path(), faults, 3));
  for (std::uint64_t i = 0; i < 100; ++i) {
    const std::array keys{key_of(i)};  // each is asked for more often than those before
    for (std::uint64_t n = 0; n < 1 + i / 8; ++n) (void)store->choose(keys, 0, kRecomputeNs);
    put(i);
    ASSERT_TRUE(store->flush(20s));
    ASSERT_LE(folder.segments().size(), 3U);
    ASSERT_LE(store->stats().disk_bytes, store->stats().disk_bytes_max);
  }
  EXPECT_GT(store->stats().segments_dropped, 5U);
  EXPECT_FALSE(store->on_disk(key_of(0)));
  EXPECT_TRUE(store->on_disk(key_of(99)));
}

TEST_F(StoreTest, ADiskThatIsFullTakesOnlyWhatIsAskedForMoreOften) {
  open(testing::small_store(folder.path(), faults, 2));
  const auto ask = [&](std::uint64_t i) {
    const std::array keys{key_of(i)};
    (void)store->choose(keys, 0, kRecomputeNs);
  };
  for (std::uint64_t i = 0; i < 16; ++i) {
    ask(i), ask(i);
    put(i);
    ASSERT_TRUE(store->flush(20s));
  }
  ask(50);
  EXPECT_FALSE(put(50));
  EXPECT_GT(refused(Reason::kCold), 0U);
  ask(50), ask(50);
  EXPECT_TRUE(put(50));
}

TEST_F(StoreTest, WhatIsQuickerToComputeIsNotWrittenAndNotLoaded) {
  EXPECT_FALSE(store->reserve(key_of(1), 1, Keep::kWritten));
  EXPECT_EQ(refused(Reason::kNotWorth), 1U);
  put_on_disk(2);
  fill_host();
  const std::array keys{key_of(2)};
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 1U);
  EXPECT_EQ(store->choose(keys, 0, 1).blocks, 0U);
  EXPECT_EQ(store->choose(keys, 1, kRecomputeNs).blocks, 0U);
}

TEST_F(StoreTest, TheDaysWritesAreBounded) {
  Options options = testing::small_store(folder.path(), faults);
  options.wear_bytes_per_day = 4 * testing::kRecordBytes;
  open(options);
  for (std::uint64_t i = 0; i < 8; ++i) {
    const std::array keys{key_of(i)};
    for (int n = 0; n < 3; ++n) (void)store->choose(keys, 0, kRecomputeNs);
    put(i);
    ASSERT_TRUE(store->flush(20s));
  }
  EXPECT_EQ(store->stats().bytes_written, options.wear_bytes_per_day);
  EXPECT_EQ(refused(Reason::kWear), 4U);
  clock.advance(6h);
  EXPECT_TRUE(put(9) || put(7));
}

TEST_F(StoreTest, AStalledDiskIsAMissAtTheDeadline) {
  put_on_disk(1);
  fill_host();
  faults->stalls = true;
  const std::array keys{key_of(1)};
  {
    Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 5ms));
    EXPECT_FALSE(fetch.done());
    clock.advance(5ms);
    EXPECT_TRUE(fetch.done());
    EXPECT_TRUE(fetch.take().empty());
  }
  faults->stalls = false;
  faults->stalls.notify_all();
  EXPECT_EQ(missed(Reason::kDeadline), 1U);
  EXPECT_TRUE(get(1));
}

TEST_F(StoreTest, WhatFailsToVerifyIsAMissOfItsOwn) {
  struct Case {
    std::atomic<bool>& fault;
    Reason reason;
  };
  std::uint64_t i = 0;
  for (const Case& c :
       {Case{faults->tears_writes, Reason::kCorrupt}, Case{faults->cuts_reads, Reason::kTruncated},
        Case{faults->reads_elsewhere, Reason::kWrongRecord}}) {
    const bool in_writing = &c.fault == &faults->tears_writes;
    c.fault = in_writing;
    put_on_disk(++i);
    put_on_disk(++i);
    fill_host();
    c.fault = !in_writing;
    EXPECT_FALSE(get(i));
    c.fault = false;
    EXPECT_GE(missed(c.reason), 1U) << to_string(c.reason);
    EXPECT_FALSE(store->on_disk(key_of(i)));  // it is not tried again
    EXPECT_TRUE(put(i));
    ASSERT_TRUE(store->flush(20s));
  }
}

TEST_F(StoreTest, AReadErrorGivesUpTheSegmentAndNoOther) {
  for (std::uint64_t i = 0; i < 16; ++i) put_on_disk(i);
  fill_host();
  faults->read_error = EIO;
  EXPECT_FALSE(get(3));
  faults->read_error = 0;
  EXPECT_EQ(missed(Reason::kIoError), 1U);
  EXPECT_EQ(store->stats().segments_quarantined, 1U);
  EXPECT_FALSE(store->on_disk(key_of(4)));
  EXPECT_TRUE(get(15));
}

TEST_F(StoreTest, ADiskThatKeepsFailingIsLeftAlone) {
  faults->write_error = EIO;
  for (std::uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(put(i));
    ASSERT_TRUE(store->flush(20s));
  }
  EXPECT_EQ(refused(Reason::kIoError), 3U);
  EXPECT_TRUE(store->stats().breaker_open);
  EXPECT_FALSE(put(10));
  EXPECT_EQ(refused(Reason::kBreakerOpen), 1U);
  faults->write_error = 0;
  clock.advance(1s);
  put_on_disk(11);
  EXPECT_TRUE(store->on_disk(key_of(11)));
}

TEST_F(StoreTest, AFullDiskMakesRoomByWhatIsOldestOfOurs) {
  for (std::uint64_t i = 0; i < 24; ++i) put_on_disk(i);
  faults->allocate_error = ENOSPC;
  ASSERT_TRUE(put(100));
  ASSERT_TRUE(store->flush(20s));
  EXPECT_EQ(refused(Reason::kDiskFull), 1U);
  EXPECT_FALSE(store->on_disk(key_of(100)));
  faults->allocate_error = 0;
  put_on_disk(101);
  EXPECT_TRUE(store->on_disk(key_of(101)));
}

TEST_F(StoreTest, ASyncThatFailsCommitsNothing) {
  put_on_disk(1);
  faults->sync_error = EIO;
  ASSERT_TRUE(put(2));
  ASSERT_TRUE(store->flush(20s));
  EXPECT_FALSE(store->on_disk(key_of(2)));
  EXPECT_TRUE(store->on_disk(key_of(1)));
}

TEST_F(StoreTest, RefusesWhatCannotBe) {
  Options options = testing::small_store("", faults);
  options.block_bytes = 0;
  EXPECT_FALSE(Store::open(options, clock).has_value());
  options = testing::small_store("", faults);
  options.host_bytes = 3 * testing::kRecordBytes;
  EXPECT_FALSE(Store::open(options, clock).has_value());
  options = testing::small_store("/proc/penstock", faults);
  EXPECT_FALSE(Store::open(options, clock).has_value());
}

TEST_F(StoreTest, WorksOverIoUring) {
  Options options = testing::small_store(folder.path(), faults);
  options.io = make_ring_io;
  if (!make_ring_io()) GTEST_SKIP() << "io_uring is forbidden here";
  open(options);
  for (std::uint64_t i = 0; i < 12; ++i) put_on_disk(i);
  open(options);
  for (std::uint64_t i = 0; i < 12; ++i) EXPECT_TRUE(get(i));
}

}  // namespace
}  // namespace penstock::tiers
