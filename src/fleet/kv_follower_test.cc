#include "fleet/kv_follower.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <vector>

#include "base/log.h"
#include "base/rng.h"
#include "fleet/kv_worker_for_test.h"

namespace penstock::fleet {
namespace {

using Kind = KvFollower::Want::Kind;
using std::chrono::milliseconds;
using std::chrono::minutes;

constexpr kv::Slot kSlot = 2;

/// Events of one worker that stores block after block of one chain.
KvBatch store(std::uint64_t sequence, std::uint64_t epoch = 1) {
  KvBatch batch;
  batch.epoch = epoch;
  batch.first = batch.last = sequence;
  const kv::StoredBlock block{.alias = epoch * 1000 + sequence, .local = sequence};
  batch.stored(kv::Tier::kDevice,
               sequence == 1 ? std::nullopt : std::optional(epoch * 1000 + sequence - 1),
               std::span(&block, 1));
  return batch;
}

KvBatch clear(std::uint64_t sequence, std::uint64_t epoch = 1) {
  KvBatch batch;
  batch.epoch = epoch;
  batch.first = batch.last = sequence;
  batch.cleared();
  return batch;
}

/// All of store(1..count), as a snapshot after `count`.
KvBatch all(std::uint64_t count, std::uint64_t epoch = 1) {
  KvBatch batch;
  batch.epoch = epoch;
  batch.first = batch.last = count;
  std::vector<kv::StoredBlock> blocks;
  for (std::uint64_t i = 1; i <= count; ++i) blocks.push_back({epoch * 1000 + i, i});
  batch.stored(kv::Tier::kDevice, std::nullopt, blocks);
  return batch;
}

class KvFollowerTest : public testing::Test {
 public:
  KvFollowerTest() { log::set_level(log::Level::kOff); }
  ~KvFollowerTest() override { log::set_level(log::Level::kInfo); }

 protected:
  void take(const KvBatch& batch) { follower_.take(batch, now_); }
  Kind next() { return follower_.next(now_).kind; }
  std::uint32_t depth() {
    std::vector<std::uint64_t> chain;
    for (std::uint64_t i = 1; i <= 20; ++i) chain.push_back(i);
    std::vector<std::uint32_t> depths(kSlot + 1);
    index_.match(chain, depths);
    return depths[kSlot];
  }

  TimePoint now_{};
  kv::PrefixIndex index_{{.context = "test", .shards = 2}};
  KvFollower follower_{index_, kSlot};
};

TEST_F(KvFollowerTest, M5_AWorkerThatTellsNothingIsKnownByItsLoadOnly) {
  EXPECT_EQ(follower_.trust(), Trust::kLoadOnly);
  EXPECT_EQ(next(), Kind::kNothing);
}

TEST_F(KvFollowerTest, AppliesInOrderAndOnce) {
  take(store(1));
  take(store(2));
  take(store(2));
  take(store(1));
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 2U);
  EXPECT_EQ(follower_.counters().duplicates, 2U);
  EXPECT_EQ(index_.position(kSlot), (kv::EventPosition{1, 2}));
}

TEST_F(KvFollowerTest, WhatComesEarlyWaitsForWhatIsLate) {
  take(store(1));
  take(store(3));
  EXPECT_EQ(follower_.trust(), Trust::kCatchingUp);
  EXPECT_EQ(depth(), 1U);
  take(store(2));
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 3U);
  EXPECT_EQ(next(), Kind::kNothing);
}

TEST_F(KvFollowerTest, M9_AGapIsReplayed) {
  take(store(1));
  take(store(4));
  const KvFollower::Want want = follower_.next(now_);
  EXPECT_EQ(want.kind, Kind::kReplay);
  EXPECT_EQ(want.from, 2U);
  EXPECT_EQ(next(), Kind::kNothing) << "asked already";
  take(store(5));
  follower_.replayed(std::vector{store(3), store(2)}, now_);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 5U);
  EXPECT_EQ(follower_.counters().gaps, 1U);
}

TEST_F(KvFollowerTest, AWorkerIsJoinedLate) {
  take(store(7));
  EXPECT_EQ(follower_.next(now_).from, 1U);
  follower_.replay_unavailable(now_);
  EXPECT_EQ(next(), Kind::kSnapshot);
  take(store(10));
  follower_.snapshot(all(8), now_);
  EXPECT_EQ(depth(), 8U);
  EXPECT_EQ(follower_.trust(), Trust::kCatchingUp);
  EXPECT_EQ(follower_.next(now_).from, 9U);
  take(store(9));
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 10U);
}

TEST_F(KvFollowerTest, ALostTailIsNoticedByWhatTheWorkerAnnounces) {
  take(store(1));
  follower_.announced({1, 3}, now_);
  EXPECT_EQ(follower_.trust(), Trust::kCatchingUp);
  EXPECT_EQ(follower_.next(now_).from, 2U);
  follower_.replayed(std::vector{store(2)}, now_);
  EXPECT_EQ(follower_.next(now_).from, 3U) << "the answer was a part: go on at once";
  follower_.replayed(std::vector{store(3)}, now_);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
}

TEST_F(KvFollowerTest, UnansweredReplaysAreAskedForEverMoreSeldomThenASnapshot) {
  take(store(1));
  take(store(3));
  for (const int wait_ms : {250, 500, 1000, 2000}) {
    ASSERT_EQ(next(), Kind::kReplay);
    now_ += milliseconds(wait_ms - 1);
    ASSERT_EQ(next(), Kind::kNothing);
    now_ += milliseconds(1);
  }
  for (const int wait_ms : {250, 500, 1000, 2000}) {
    ASSERT_EQ(next(), Kind::kSnapshot);
    now_ += milliseconds(wait_ms);
  }
  EXPECT_EQ(follower_.trust(), Trust::kCatchingUp);
  ASSERT_EQ(next(), Kind::kSnapshot);  // for the doubt now
  EXPECT_EQ(follower_.trust(), Trust::kDegraded);
  EXPECT_TRUE(follower_.doubts(Doubt::kLost));
}

TEST_F(KvFollowerTest, WithNothingToFetchItGoesOnFromWhatComesAndSaysSo) {
  take(store(1));
  take(store(3));
  follower_.replay_unavailable(now_);
  EXPECT_EQ(next(), Kind::kSnapshot);
  follower_.snapshot_unavailable(now_);
  EXPECT_EQ(follower_.trust(), Trust::kDegraded);
  EXPECT_EQ(depth(), 0U) << "nothing that may be wrong";
  EXPECT_EQ(follower_.counters().doubts[static_cast<std::size_t>(Doubt::kLost)], 1U);
  EXPECT_EQ(next(), Kind::kNothing);
  take(store(4));
  EXPECT_FALSE(follower_.doubts(Doubt::kOrphans)) << "to be expected after a loss";
  now_ += minutes(10);
  EXPECT_EQ(next(), Kind::kSnapshot);
  take(clear(5));
  EXPECT_EQ(follower_.trust(), Trust::kExact) << "an empty cache is known exactly";
}

TEST_F(KvFollowerTest, M8_AClearFencesWhatCameBefore) {
  take(store(1));
  take(clear(4));  // what is missing no longer matters
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  take(store(2));
  take(store(3));
  follower_.replayed(std::vector{store(1), store(2)}, now_);
  EXPECT_EQ(depth(), 0U);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
}

TEST_F(KvFollowerTest, H9_ANewLifeBeginsWithNothingAndTheOldOneNoLongerCounts) {
  take(store(1));
  take(store(2));
  take(store(1, 2));
  EXPECT_EQ(follower_.counters().restarts, 1U);
  EXPECT_EQ(depth(), 1U);
  take(store(3));
  follower_.replayed(std::vector{store(2)}, now_);
  follower_.snapshot(all(5), now_);
  EXPECT_EQ(depth(), 1U);
  EXPECT_EQ(follower_.counters().stale, 3U);
  take(store(2, 2));
  EXPECT_EQ(depth(), 2U);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
}

TEST_F(KvFollowerTest, ASequenceThatFallsIsANewLifeWhereLivesAreNotTold) {
  for (std::uint64_t i = 1; i <= 3; ++i) take(store(i, 0));
  take(store(1, 0));
  EXPECT_EQ(follower_.counters().restarts, 1U);
  EXPECT_EQ(depth(), 1U);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
}

TEST_F(KvFollowerTest, M1_NamesThatChangedUnderwayAreADoubtAndASnapshotEndsIt) {
  take(store(1));
  KvBatch batch = store(2, 5);  // another way to name blocks, as with a new hash seed
  batch.epoch = 1;
  take(batch);
  EXPECT_TRUE(follower_.doubts(Doubt::kOrphans));
  EXPECT_EQ(follower_.trust(), Trust::kDegraded);
  EXPECT_EQ(next(), Kind::kSnapshot);
  follower_.snapshot(all(2), now_);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 2U);
}

TEST_F(KvFollowerTest, ASnapshotOlderThanThePictureChangesNothing) {
  for (std::uint64_t i = 1; i <= 3; ++i) take(store(i));
  follower_.snapshot(all(2), now_);
  EXPECT_EQ(depth(), 3U);
  EXPECT_EQ(follower_.counters().stale, 1U);
}

TEST_F(KvFollowerTest, WhatComesEarlyIsBounded) {
  KvFollower follower(index_, kSlot, {.pending_batches_max = 2});
  for (const std::uint64_t i : {1, 3, 4, 5, 6}) follower.take(store(i), now_);
  EXPECT_EQ(follower.counters().overflows, 2U);
  follower.take(store(2), now_);
  EXPECT_EQ(depth(), 4U);
  EXPECT_EQ(follower.next(now_).from, 5U);
  follower.replayed(std::vector{store(5), store(6)}, now_);
  EXPECT_EQ(follower.trust(), Trust::kExact);
  EXPECT_EQ(depth(), 6U);
}

TEST_F(KvFollowerTest, WhatTheIndexHadNoRoomForIsADoubt) {
  kv::PrefixIndex small({.context = "test", .budget_bytes = 1 << 20, .shards = 1});
  KvFollower follower(small, 0);
  std::uint64_t sequence = 0;
  std::vector<kv::StoredBlock> blocks(500);
  while (small.stats().shed_runs == 0 && sequence < 1000) {
    KvBatch batch;
    batch.epoch = 1;
    batch.first = batch.last = ++sequence;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = {.alias = mix64(sequence * 1000 + i), .local = mix64(sequence * 2000 + i)};
    }
    batch.stored(kv::Tier::kDevice, std::nullopt, blocks);
    follower.take(batch, now_);
  }
  EXPECT_TRUE(follower.doubts(Doubt::kShed));
  EXPECT_EQ(follower.trust(), Trust::kDegraded);
  EXPECT_EQ(follower.next(now_).kind, Kind::kSnapshot);
  KvBatch little = store(1);
  little.first = little.last = sequence;
  follower.snapshot(little, now_);
  EXPECT_EQ(follower.trust(), Trust::kExact);
}

TEST_F(KvFollowerTest, M1_PredictionsThatDoNotComeTrueAreADoubtUntilTheyDo) {
  take(store(1));
  for (int i = 0; i < 100; ++i) follower_.compare(0, 0);  // says nothing
  for (int i = 0; i < 5; ++i) follower_.compare(640, 576);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  for (int i = 0; i < 16; ++i) follower_.compare(640, 0);
  EXPECT_TRUE(follower_.doubts(Doubt::kDisagreement));
  EXPECT_EQ(next(), Kind::kSnapshot);
  follower_.snapshot(all(1), now_);
  EXPECT_EQ(follower_.trust(), Trust::kDegraded) << "a snapshot does not prove the predictions";
  for (int i = 0; i < 40; ++i) follower_.compare(640, 640);
  EXPECT_EQ(follower_.trust(), Trust::kExact);
  EXPECT_EQ(follower_.counters().doubts[static_cast<std::size_t>(Doubt::kDisagreement)], 1U);
}

/// Three workers' events through a channel that loses, repeats, delays and swaps them, with
/// restarts, replays that are partly gone and snapshots that may fail or be old. Once the channel
/// is well again and everything wanted is fetched, each picture is exact and equals the truth.
class KvFollowerProperty : public testing::TestWithParam<std::uint64_t> {};

TEST_P(KvFollowerProperty, AfterAnyTroubleAndRecoveryThePictureIsTheTruth) {
  log::set_level(log::Level::kOff);
  constexpr kv::Slot kWorkers = 3;
  for (std::uint64_t seed = GetParam() * 50; seed < GetParam() * 50 + 50; ++seed) {
    SCOPED_TRACE(seed);
    Rng rng(seed);
    TimePoint now{};
    kv::PrefixIndex index({.context = "test", .shards = 4});
    std::vector<KvWorkerForTest> workers;
    std::vector<KvFollower> followers;
    std::vector<std::vector<KvBatch>> channels(kWorkers);
    std::vector<std::optional<KvBatch>> late(kWorkers);  // snapshots under way
    for (kv::Slot i = 0; i < kWorkers; ++i) {
      workers.emplace_back(i, mix64(seed) + i, 1 + rng.below(40));
      followers.emplace_back(index, i,
                             KvFollower::Options{.pending_batches_max = 1 + rng.below(20)});
    }
    const auto fetch = [&](kv::Slot i, bool well) {
      const KvFollower::Want want = followers[i].next(now);
      if (want.kind == Kind::kNothing || (!well && rng.below(3) == 0)) return;
      if (want.kind == Kind::kReplay) {
        const auto found = workers[i].replay(want.from, 1 + rng.below(10));
        found ? followers[i].replayed(*found, now) : followers[i].replay_unavailable(now);
      } else if (well || rng.below(4) > 0) {
        late[i] = workers[i].snapshot();
      } else {
        followers[i].snapshot_unavailable(now);
      }
      if (well && late[i]) followers[i].snapshot(*std::exchange(late[i], {}), now);
    };
    for (int step = 0; step < 400; ++step) {
      now += milliseconds(rng.below(200));
      const kv::Slot i = rng.below(kWorkers);
      const std::uint32_t what = rng.below(100);
      if (what == 0) {
        workers[i].restart();
      } else if (what < 60) {
        const KvBatch& batch = workers[i].step();
        if (rng.below(10) > 0) channels[i].push_back(batch);
        if (rng.below(10) == 0) channels[i].push_back(batch);
      } else if (what < 90 && !channels[i].empty()) {
        const std::size_t at =
            rng.below(4) > 0 ? 0 : rng.below(static_cast<std::uint32_t>(channels[i].size()));
        followers[i].take(channels[i][at], now);
        channels[i].erase(channels[i].begin() + static_cast<std::ptrdiff_t>(at));
      } else if (what < 95) {
        fetch(i, false);
      } else if (late[i]) {
        followers[i].snapshot(*std::exchange(late[i], {}), now);
      }
      if (what == 99) followers[i].announced(workers[i].last(), now);
    }
    index.check();
    for (kv::Slot i = 0; i < kWorkers; ++i) {
      for (const KvBatch& batch : channels[i]) followers[i].take(batch, now);
      followers[i].announced(workers[i].last(), now);
      for (int round = 0; round < 100 && followers[i].trust() != Trust::kExact; ++round) {
        now += minutes(10);
        fetch(i, true);
      }
      ASSERT_EQ(followers[i].trust(), Trust::kExact);
      ASSERT_EQ(followers[i].applied(), workers[i].last());
    }
    for (int question = 0; question < 60; ++question) {
      const std::vector<std::uint64_t> chain = KvWorkerForTest::chain(rng);
      std::vector<std::uint32_t> depths(kWorkers);
      index.match(chain, depths);
      for (kv::Slot i = 0; i < kWorkers; ++i) ASSERT_EQ(depths[i], workers[i].depth(chain)) << i;
    }
  }
  log::set_level(log::Level::kInfo);
}

INSTANTIATE_TEST_SUITE_P(Seeds, KvFollowerProperty, testing::Range<std::uint64_t>(0, 10));

}  // namespace
}  // namespace penstock::fleet
