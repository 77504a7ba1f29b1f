#include "fleet/health.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/rng.h"

namespace penstock::fleet {
namespace {

using std::chrono::seconds;
using Check = WorkerHealth::Check;

class WorkerHealthTest : public testing::Test {
 protected:
  /// Lets the time pass second by second; what is asked for comes back `well`. Returns the checks.
  int pass(int s, bool well) {
    int checks = 0;
    for (int i = 0; i < s; ++i) {
      now_ += seconds(1);
      const Check check = health_.next(now_);
      checks += check != Check::kNothing;
      if (check == Check::kProbe) health_.probed(well, now_);
      if (check == Check::kCanary) health_.canary_ended(well, now_);
    }
    return checks;
  }
  void get_ready() {
    health_.probed(true, now_);
    ASSERT_EQ(health_.state(), WorkerState::kReady);
  }
  void fail_requests(FaultClass fault, int times) {
    for (int i = 0; i < times; ++i) health_.request_ended(fault, now_);
  }

  TimePoint now_{};
  WorkerHealth health_{now_};
};

TEST_F(WorkerHealthTest, StartsWithAProbeThatComesBack) {
  EXPECT_EQ(health_.state(), WorkerState::kStarting);
  EXPECT_EQ(health_.next(now_), Check::kProbe);
  EXPECT_EQ(health_.next(now_), Check::kNothing);
  pass(100, false);
  EXPECT_EQ(health_.state(), WorkerState::kStarting) << "it may take long to start";
  pass(1, true);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
}

TEST_F(WorkerHealthTest, H1_ClientErrorsAndFullQueuesNeverCount) {
  get_ready();
  fail_requests(FaultClass::kClient, 1000);
  fail_requests(FaultClass::kOverload, 1000);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
  fail_requests(FaultClass::kNetwork, 2);
  health_.request_ended(std::nullopt, now_);
  fail_requests(FaultClass::kWorker, 2);
  EXPECT_EQ(health_.state(), WorkerState::kReady) << "not in a row";
  fail_requests(FaultClass::kNetwork, 1);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  EXPECT_EQ(health_.suspicion(), Suspicion::kRequests);
}

TEST_F(WorkerHealthTest, AWorkerWhoseRequestsFailedReturnsByACanaryOnly) {
  get_ready();
  fail_requests(FaultClass::kWorker, 3);
  now_ += seconds(2);
  health_.heartbeat(now_);
  health_.probed(true, now_);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  ASSERT_EQ(health_.next(now_), Check::kCanary);
  health_.canary_ended(true, now_);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
}

TEST_F(WorkerHealthTest, H6_AWorkerThatAnswersProbesAndGivesNoTokenIsFoundByACanary) {
  get_ready();
  int canaries = 0;
  for (int s = 0; s < 62 && health_.state() == WorkerState::kReady; ++s) {
    now_ += seconds(1);
    const Check check = health_.next(now_);
    if (check == Check::kProbe) health_.probed(true, now_);
    canaries += check == Check::kCanary;
  }
  EXPECT_EQ(canaries, 1);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  EXPECT_EQ(health_.suspicion(), Suspicion::kHung);
  pass(300, true);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
}

TEST_F(WorkerHealthTest, ItHangsOnceACanaryHasWaitedInVainAndNoMoreWhenOneComesBack) {
  get_ready();
  now_ += seconds(30);
  health_.heartbeat(now_);
  ASSERT_EQ(health_.next(now_), Check::kCanary);
  health_.canary_ended(false, now_);  // refused: it may be busy with one long pass
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  EXPECT_FALSE(health_.hangs(now_));
  EXPECT_FALSE(health_.hangs(now_ + seconds(29)));
  EXPECT_TRUE(health_.hangs(now_ + seconds(30)));
  pass(31, true);
  EXPECT_FALSE(health_.hangs(now_));
  EXPECT_EQ(health_.state(), WorkerState::kReady);
  fail_requests(FaultClass::kWorker, 3);
  EXPECT_FALSE(health_.hangs(now_)) << "it fails at once, which is no reason to take the rest away";
}

TEST_F(WorkerHealthTest, WhoIsAskedForNoCanariesIsNeverSaidToHang) {
  WorkerHealth health(now_, {.canary_after = Nanos::max(), .gone_after = Nanos::max()});
  health.probed(true, now_);
  for (int i = 0; i < 3; ++i) health.request_ended(FaultClass::kWorker, now_);
  EXPECT_EQ(health.state(), WorkerState::kSuspect);
  EXPECT_FALSE(health.hangs(now_ + std::chrono::hours(1000)));
}

TEST_F(WorkerHealthTest, H5_ABusyWorkerIsNotDeadThoughItsCanaryWaits) {
  get_ready();
  now_ += seconds(30);
  health_.heartbeat(now_);
  ASSERT_EQ(health_.next(now_), Check::kCanary);
  for (int s = 0; s < 300; ++s) {  // it works through its queue before the canary
    now_ += seconds(1);
    health_.token(now_);
    const Check check = health_.next(now_);
    ASSERT_NE(check, Check::kCanary);
    ASSERT_EQ(health_.state(), WorkerState::kReady);
  }
}

TEST_F(WorkerHealthTest, SilenceAndFailingProbesMakeSuspectAndAProbeBringsBack) {
  get_ready();
  now_ += seconds(20);
  EXPECT_NE(health_.next(now_), Check::kCanary);
  EXPECT_EQ(health_.suspicion(), Suspicion::kSilence);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  pass(5, true);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
  pass(16, false);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  EXPECT_EQ(health_.suspicion(), Suspicion::kProbes);
}

TEST_F(WorkerHealthTest, PausesDoubleWhileItFailsAndStartOverWhenItWasWellForLong) {
  get_ready();
  fail_requests(FaultClass::kWorker, 3);
  EXPECT_LE(pass(127, false), 7);  // after 1, 2, 4, ... seconds
  EXPECT_LE(pass(600, false), 10);
  EXPECT_EQ(health_.state(), WorkerState::kSuspect);
  pass(61, true);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
  fail_requests(FaultClass::kWorker, 3);
  EXPECT_EQ(pass(30, true), 0) << "it was not well for long";
  pass(31, true);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
  pass(120, true);
  fail_requests(FaultClass::kWorker, 3);
  EXPECT_EQ(pass(1, true), 1);
  EXPECT_EQ(health_.state(), WorkerState::kReady);
}

TEST_F(WorkerHealthTest, DrainingStaysDrainingAndGoneStaysGone) {
  get_ready();
  health_.drain();
  fail_requests(FaultClass::kWorker, 10);
  pass(100, false);
  EXPECT_EQ(health_.state(), WorkerState::kDraining);
  health_.left();
  health_.drain();
  health_.probed(true, now_);
  EXPECT_EQ(health_.next(now_), Check::kNothing);
  EXPECT_EQ(health_.state(), WorkerState::kGone);
}

TEST_F(WorkerHealthTest, GoneWhenSilentForLongIfAskedFor) {
  WorkerHealth health(now_, {.gone_after = std::chrono::minutes(5)});
  health.probed(true, now_);
  (void)health.next(now_ + seconds(300));
  EXPECT_EQ(health.state(), WorkerState::kSuspect);
  (void)health.next(now_ + seconds(301));
  EXPECT_EQ(health.state(), WorkerState::kGone);
}

TEST_F(WorkerHealthTest, TimeInWhichNobodyLookedDoesNotCountAgainstIt) {
  WorkerHealth health(now_, {.gone_after = std::chrono::minutes(5)});
  health.probed(true, now_);
  now_ += std::chrono::hours(1);
  health.unwatched(std::chrono::hours(1), now_);
  EXPECT_EQ(health.next(now_), Check::kNothing);
  health.heartbeat(now_);
  EXPECT_EQ(health.next(now_ + seconds(19)), Check::kProbe);
  health.probed(true, now_ + seconds(19));
  EXPECT_EQ(health.next(now_ + seconds(30)), Check::kCanary);
  now_ += std::chrono::hours(1);
  health.unwatched(std::chrono::hours(2), now_);  // what was read since is not of the future
  health.heartbeat(now_);
  (void)health.next(now_ + seconds(19));
  EXPECT_EQ(health.state(), WorkerState::kReady);
  EXPECT_TRUE(health.awaits_canary());
  (void)health.next(now_ + seconds(30));
  EXPECT_FALSE(health.awaits_canary());
  EXPECT_EQ(health.state(), WorkerState::kSuspect);
  (void)health.next(now_ + seconds(301));
  EXPECT_EQ(health.state(), WorkerState::kGone);
}

TEST_F(WorkerHealthTest, WhateverWasSeenAWorkerThatIsWellAgainComesBackAndOneThatIsNotStaysOut) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    now_ = {};
    health_ = WorkerHealth(now_);
    for (int step = 0; step < 300; ++step) {
      now_ += std::chrono::milliseconds(rng.below(8000));
      switch (rng.below(8)) {
        case 0: health_.probed(rng.below(2) == 0, now_); break;
        case 1: health_.canary_ended(rng.below(2) == 0, now_); break;
        case 2: health_.heartbeat(now_); break;
        case 3: health_.token(now_); break;
        case 4: health_.request_ended(static_cast<FaultClass>(rng.below(4)), now_); break;
        case 5: health_.request_ended(std::nullopt, now_); break;
        default: (void)health_.next(now_);
      }
    }
    pass(200, true);
    ASSERT_EQ(health_.state(), WorkerState::kReady) << seed;
    pass(200, false);
    ASSERT_EQ(health_.state(), WorkerState::kSuspect) << seed;
  }
}

}  // namespace
}  // namespace penstock::fleet
