#include "tiers/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "tiers/for_test.h"
#include "tiers/internal/segment.h"

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
  bool put(std::uint64_t i, Keep keep = Keep::kWritten) { return testing::put(*store, i, keep); }
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

TEST_F(StoreTest, ForeseeingSaysWhatChoosingWouldAndCountsNothing) {
  put_on_disk(1);
  put_on_disk(2);
  const std::array keys{key_of(1), key_of(2), key_of(3)};
  const LoadChoice foreseen = store->foresee(keys, 0, kRecomputeNs);
  EXPECT_EQ(foreseen.blocks, 2U);
  EXPECT_EQ(store->foresee(keys, 1, kRecomputeNs).blocks, 1U);
  EXPECT_EQ(store->foresee(keys, 3, kRecomputeNs).blocks, 0U);
  EXPECT_EQ(store->stats().asked, 0U);
  const LoadChoice chosen = store->choose(keys, 0, kRecomputeNs);
  EXPECT_EQ(chosen.blocks, foreseen.blocks);
  EXPECT_EQ(chosen.load_ns, foreseen.load_ns);
  EXPECT_EQ(store->stats().asked, 3U);
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

TEST_F(StoreTest, TheDaysWritesAreBoundedOverRestartsThatFindFewOfThem) {
  Options options = testing::small_store(folder.path(), faults, 2);
  options.wear_bytes_per_day = 40 * testing::kRecordBytes;
  std::uint64_t written = 0;
  for (std::uint64_t life = 0; life < 20; ++life) {
    open(options);
    for (std::uint64_t i = 100 * life; i < 100 * life + 7; ++i) {
      const std::array keys{key_of(i)};
      for (int n = 0; n < 3; ++n) (void)store->choose(keys, 0, kRecomputeNs);
      // Each is worth more than those before, which go for it.
      if (auto place = store->reserve(key_of(i), double(i + 1) * kRecomputeNs, Keep::kWritten)) {
        place.commit();
      }
      ASSERT_TRUE(store->flush(20s));
    }
    written += store->stats().bytes_written;
  }
  EXPECT_LE(folder.segments().size(), 2U);
  EXPECT_LE(written, options.wear_bytes_per_day);
  EXPECT_GE(written, options.wear_bytes_per_day - options.segment_bytes);
  EXPECT_GT(refused(Reason::kWear), 0U);
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

TEST_F(StoreTest, WhatGoesBetweenChoosingAndFetchingIsAMiss) {
  put_on_disk(1);
  fill_host();
  const std::array keys{key_of(1)};
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 1U);
  {
    auto place = store->reserve(keys[0], kRecomputeNs, Keep::kHeld);  // computed meanwhile
    EXPECT_FALSE(get(1));
    EXPECT_EQ(missed(Reason::kGone), 1U);
  }
  EXPECT_TRUE(get(1));
  EXPECT_FALSE(get(2));
  EXPECT_EQ(missed(Reason::kGone), 2U);
}

TEST_F(StoreTest, WhatIsGivenUpWhileItWaitsToBeReadIsAMiss) {
  for (std::uint64_t i = 1; i <= 3; ++i) put_on_disk(i);
  fill_host();
  faults->stalls = true;
  faults->read_error = EIO;
  const std::uint32_t before = faults->runs;
  std::vector<Store::Fetch> fetches;
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const std::array keys{key_of(i)};
    fetches.push_back(store->fetch(keys, Deadline(clock.now() + 1h)));
    while (i < 3 && faults->runs < before + i) std::this_thread::yield();  // two are being read
  }
  faults->stalls = false;
  faults->stalls.notify_all();
  for (Store::Fetch& each : fetches) {
    EXPECT_TRUE(each.wait(20s));
    EXPECT_TRUE(each.take().empty());
  }
  EXPECT_EQ(missed(Reason::kIoError), 2U);
  EXPECT_EQ(missed(Reason::kGone), 1U);
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

TEST_F(StoreTest, AFlippedBitIsFoundByReadingBeforeAnyoneIsGivenTheBlock) {
  constexpr std::int64_t kInKey = 30;
  constexpr std::int64_t kLast = kRecordHeaderBytes + testing::kBlockBytes - 1;
  std::uint64_t found = 0;
  for (const std::int64_t at : {kInKey, std::int64_t(kRecordHeaderBytes), kLast}) {
    const std::array keys{key_of(std::uint64_t(at))};
    put_on_disk(std::uint64_t(at));
    fill_host();
    faults->flips_read_at = at;
    Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 1h));
    EXPECT_TRUE(fetch.wait(20s));
    faults->flips_read_at = -1;
    EXPECT_TRUE(fetch.take().empty()) << at;
    EXPECT_EQ(missed(Reason::kCorrupt), ++found) << at;
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
  EXPECT_TRUE(store->stats().writes_paused);
  EXPECT_FALSE(put(10));
  EXPECT_EQ(refused(Reason::kBreakerOpen), 1U);
  faults->write_error = 0;
  clock.advance(1s);
  put_on_disk(11);
  EXPECT_TRUE(store->on_disk(key_of(11)));
}

TEST_F(StoreTest, ADiskThatCannotBeWrittenIsStillRead) {
  put_on_disk(1);
  faults->write_error = EROFS;
  for (std::uint64_t i = 10; i < 13; ++i) {
    ASSERT_TRUE(put(i));
    ASSERT_TRUE(store->flush(20s));
  }
  EXPECT_FALSE(put(13));
  fill_host();
  const std::array keys{key_of(1)};
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 1U);
  EXPECT_TRUE(get(1));
  EXPECT_FALSE(put(13));  // and reading does not make it writable
  EXPECT_FALSE(store->stats().reads_paused);
}

TEST_F(StoreTest, AFullDiskKeepsWhatIsThereAndIsTriedLater) {
  for (std::uint64_t i = 0; i < 24; ++i) put_on_disk(i);
  faults->allocate_error = ENOSPC;
  ASSERT_TRUE(put(100));
  ASSERT_TRUE(store->flush(20s));
  EXPECT_FALSE(put(101));
  EXPECT_EQ(refused(Reason::kDiskFull), 2U);
  clock.advance(1min);
  ASSERT_TRUE(put(102));
  ASSERT_TRUE(store->flush(20s));
  EXPECT_EQ(store->stats().segments_dropped, 0U);
  for (std::uint64_t i = 0; i < 24; ++i) EXPECT_TRUE(store->on_disk(key_of(i)));
  faults->allocate_error = 0;
  clock.advance(1min);
  put_on_disk(103);
  EXPECT_TRUE(store->on_disk(key_of(103)));
}

TEST_F(StoreTest, ADiskThatIsFullInTheMiddleOfASegmentKeepsAllAndIsGoneOnWithLater) {
  for (std::uint64_t i = 0; i < 3; ++i) put_on_disk(i);
  for (std::uint64_t minute = 0; minute < 20; ++minute) {
    faults->room_bytes = testing::kRecordBytes / 2;
    ASSERT_TRUE(put(100 + minute));
    ASSERT_TRUE(store->flush(20s));
    EXPECT_FALSE(store->on_disk(key_of(100 + minute)));
    EXPECT_FALSE(put(200));  // it is not tried again yet
    EXPECT_EQ(refused(Reason::kDiskFull), 2 * (minute + 1));
    clock.advance(1min);
    EXPECT_FALSE(store->stats().writes_paused);  // nothing but the room was missed
  }
  EXPECT_EQ(folder.segments().size(), 1U);
  open();  // what is torn there is none
  EXPECT_EQ(store->stats().recovered_blocks, 3U);
  faults->room_bytes = INT64_MAX;
  put_on_disk(3);
  for (int life = 0; life < 2; ++life) {
    EXPECT_EQ(store->stats().disk_blocks, 4U);
    fill_host();
    for (std::uint64_t i = 0; i < 4; ++i) EXPECT_TRUE(get(i)) << i;
    EXPECT_FALSE(get(100));
    open();
  }
}

TEST_F(StoreTest, ADiskThatHangsIsNotWaitedForAgainAndAgain) {
  put_on_disk(1);
  put_on_disk(4);
  fill_host();
  faults->stalls = true;
  const std::array keys{key_of(1), key_of(4)};
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 2U);
  const std::uint32_t before = faults->runs;
  const Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 5ms));
  ASSERT_TRUE(put(2));
  while (faults->runs < before + 2) std::this_thread::yield();  // both threads are in it
  while (!store->stats().reads_paused || !store->stats().writes_paused) clock.advance(1s);
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 0U);
  EXPECT_EQ(missed(Reason::kBreakerOpen), 2U);
  EXPECT_FALSE(put(3));
  EXPECT_EQ(refused(Reason::kBreakerOpen), 1U);
  faults->stalls = false;
  faults->stalls.notify_all();
  EXPECT_TRUE(fetch.wait(20s));
  ASSERT_TRUE(store->flush(20s));
  while (store->stats().reads_paused) std::this_thread::yield();
  EXPECT_EQ(store->choose(keys, 0, kRecomputeNs).blocks, 2U);
  EXPECT_TRUE(get(1));
}

TEST_F(StoreTest, ADiskThatWasSlowIsTriedAgainWhenThatIsLongAgo) {
  put_on_disk(1);
  fill_host();
  const std::array keys{key_of(1)};
  const auto chosen = [&] { return store->choose(keys, 0, 1e6).blocks; };
  EXPECT_EQ(chosen(), 1U);
  faults->stalls = true;
  const std::uint32_t before = faults->runs;
  {
    const Store::Fetch fetch = store->fetch(keys, Deadline(clock.now() + 1h));
    while (faults->runs == before) std::this_thread::yield();
    clock.advance(1s);
    faults->stalls = false;
    faults->stalls.notify_all();
    EXPECT_TRUE(fetch.wait(20s));
  }
  fill_host();
  EXPECT_EQ(chosen(), 0U);
  clock.advance(20min);
  EXPECT_EQ(chosen(), 1U);
  EXPECT_TRUE(get(1));
  fill_host();
  EXPECT_EQ(chosen(), 1U);
}

TEST_F(StoreTest, WhatFailsIsLoggedWithItsCauseAndNotEachTime) {
  ::testing::internal::CaptureStderr();
  faults->write_error = EIO;
  for (std::uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(put(i));
    ASSERT_TRUE(store->flush(20s));
  }
  store.reset();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, ::testing::HasSubstr("--kv-disk " + folder.path()));
  const std::size_t first = log.find("Input/output error");
  ASSERT_NE(first, std::string::npos);
  EXPECT_EQ(log.find("Input/output error", first + 1), std::string::npos);
}

TEST_F(StoreTest, ManySegmentsAreFoundByFewReads) {
  for (std::uint64_t i = 0; i < 64; ++i) put_on_disk(i);
  store.reset();
  ASSERT_EQ(folder.segments().size(), 8U);
  faults->runs = 0;
  open();
  EXPECT_EQ(store->stats().recovered_blocks, 64U);
  EXPECT_LE(faults->runs, 4U);  // all headers and footers; and the one that was being filled
}

TEST_F(StoreTest, AStoreOfAnotherSizeHasTheSameBlocks) {
  for (std::uint64_t i = 0; i < 12; ++i) put_on_disk(i);
  Options larger = testing::small_store(folder.path(), faults);
  larger.segment_bytes *= 2;
  larger.disk_bytes *= 4;
  open(larger);
  EXPECT_EQ(store->stats().recovered_blocks, 12U);
  for (std::uint64_t i = 12; i < 40; ++i) put_on_disk(i);
  open();
  for (std::uint64_t i = 0; i < 40; ++i) EXPECT_TRUE(get(i)) << i;
}

TEST_F(StoreTest, AFileThatCannotBeReadStaysAndCounts) {
  for (std::uint64_t i = 0; i < 12; ++i) put_on_disk(i);
  const std::uint64_t bytes = store->stats().disk_bytes;
  faults->read_error = EIO;
  open();
  EXPECT_EQ(store->stats().unreadable_segments, 2U);
  EXPECT_EQ(store->stats().recovered_blocks, 0U);
  EXPECT_EQ(store->stats().disk_bytes, bytes);
  faults->read_error = 0;
  open();
  EXPECT_EQ(store->stats().recovered_blocks, 12U);
}

TEST_F(StoreTest, FilesOfOthersStayAndWhatWasNeverBegunGoes) {
  put_on_disk(1);
  store.reset();
  const auto path = [&](std::uint64_t id) { return folder.path() + "/" + segment_name(id); };
  std::ofstream(path(100)) << std::string(10'000, 'x');
  SegmentHeader newer{.version = kFormatVersion + 1};
  seal(newer);
  std::string page(kPageBytes, 0);
  std::memcpy(page.data(), &newer, sizeof newer);
  std::ofstream(path(101)) << page;
  std::ofstream(path(102)) << std::string(20'000, '\0');
  std::ofstream(path(103)) << "";
  ASSERT_EQ(mkfifo(path(104).c_str(), 0600), 0);  // to open it would wait for a writer
  std::filesystem::create_directory(path(105));
  open();
  EXPECT_EQ(store->stats().incompatible_segments, 2U);
  EXPECT_TRUE(get(1));
  EXPECT_TRUE(std::filesystem::exists(path(100)));
  EXPECT_TRUE(std::filesystem::exists(path(101)));
  EXPECT_FALSE(std::filesystem::exists(path(102)));
  EXPECT_FALSE(std::filesystem::exists(path(103)));
  for (std::uint64_t i = 2; i < 20; ++i) {
    put_on_disk(i);
    EXPECT_TRUE(store->on_disk(key_of(i))) << i;
  }
}

TEST_F(StoreTest, ASyncThatFailsCommitsNothing) {
  put_on_disk(1);
  faults->sync_error = EIO;
  ASSERT_TRUE(put(2));
  ASSERT_TRUE(store->flush(20s));
  EXPECT_FALSE(store->on_disk(key_of(2)));
  EXPECT_TRUE(store->on_disk(key_of(1)));
}

TEST_F(StoreTest, SyncsThatFailDoNotCostWhatIsThere) {
  for (std::uint64_t i = 0; i < 64; ++i) put_on_disk(i);  // all segments are full
  faults->sync_error = EIO;
  for (std::uint64_t i = 100; i < 120; ++i) {
    clock.advance(2min);
    const std::array keys{key_of(i)};
    for (int asked = 0; asked < 8; ++asked) (void)store->choose(keys, 0, kRecomputeNs);
    put(i);
    ASSERT_TRUE(store->flush(20s));
  }
  EXPECT_GE(refused(Reason::kIoError), 1U);
  EXPECT_LE(store->stats().segments_dropped, 1U);
}

TEST_F(StoreTest, RefusesWhatCannotBe) {
  Options options = testing::small_store("", faults);
  options.block_bytes = 0;
  EXPECT_FALSE(Store::open(options, clock).has_value());
  options = testing::small_store("", faults);
  options.host_bytes = 3 * testing::kRecordBytes;
  EXPECT_FALSE(Store::open(options, clock).has_value());
  EXPECT_TRUE(make_folder(""));
  EXPECT_FALSE(make_folder("/proc/penstock"));
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
