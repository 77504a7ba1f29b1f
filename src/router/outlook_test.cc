#include "router/outlook.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "fleet/ledger.h"

namespace penstock::router {
namespace {

/// A worker in the middle of anything: reports and prompts given to it at random.
class OutlookTest : public ::testing::Test {
 protected:
  void worker(Rng& rng) {
    slot_ = *ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
    ledger_.set_cost(slot_, {.prefill_base_ms = 20 * rng.fraction(),
                             .prefill_token_ms = 0.02,
                             .prefill_token2_ms = 1e-6 * rng.fraction(),
                             .decode_base_ms = 6,
                             .decode_use_ms = 50,
                             .decode_use2_ms = -20,
                             .pass_tokens_max = 1 + rng.below(4) * 700});
    for (std::uint32_t i = rng.below(4); i > 0; --i) charge(rng);
    if (rng.below(4) == 0) return;  // never reported
    fleet::WorkerReport report{.generation = 1,
                               .accepted = leases_.size(),
                               .running = rng.below(5),
                               .waiting = rng.below(3),
                               .running_max = rng.below(2) * (1 + rng.below(6)),
                               .kv_blocks_used = rng.below(200),
                               .kv_blocks_max = 100 + rng.below(200)};
    if (report.running > 0 && rng.below(2) == 0)
      report.running_prefill_tokens_left = rng.below(3000);
    if (rng.below(2) == 0) {
      report.pass_started = now_ - std::chrono::milliseconds(rng.below(20));
      report.pass = {.prefill_tokens = rng.below(1000), .decodes = true, .kv_use = 0.5};
    }
    ledger_.report(slot_, report);
    for (std::uint32_t i = rng.below(3); i > 0; --i) charge(rng);
  }
  void charge(Rng& rng) {
    const std::uint32_t tokens = 1 + rng.below(3000);
    leases_.push_back(ledger_.charge(
        slot_,
        {.prompt_tokens = tokens, .uncached_tokens = tokens, .new_blocks = tokens / 64 + 1}));
  }

  fleet::Ledger ledger_;
  Slot slot_ = 0;
  TimePoint now_ = TimePoint(std::chrono::seconds(100));
  std::vector<fleet::Lease> leases_;
};

TEST_F(OutlookTest, WhatAPromptAddsIsWhatThePlanCostsMore) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Rng rng(seed);
    worker(rng);
    Outlook outlook;
    outlook.refresh(ledger_.view(), slot_, 3000, 200);
    const Prices prices{.stream = rng.fraction(), .work = 3 * rng.fraction()};
    const double rest_ms = outlook.glance().rest_ms(now_);
    const double steps = 1 + rng.below(300);
    const Item item{.tokens = 1.0 + rng.below(8000),
                    .blocks = 1.0 + rng.below(150),
                    .load_ms = 300.0 * rng.below(3) * rng.fraction(),
                    .cold = 20.0 * rng.below(3),
                    .steps_max = steps};
    const double without = outlook.cost({}, rest_ms, prices);
    const double with = outlook.cost({}, rest_ms, prices, &item);
    ASSERT_NEAR(outlook.added(item, rest_ms).cost(prices), with - without, 1e-6 * (1 + with))
        << seed;
    ASSERT_LE(outlook.glance().least_ms(item.tokens, std::min(steps, 200.0), rest_ms, prices),
              outlook.added(item, rest_ms).cost(prices) + 1e-6)
        << seed;
  }
}

TEST_F(OutlookTest, FollowsTheWorkersQueuePassByPass) {
  slot_ = *ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  ledger_.set_cost(slot_, {.prefill_base_ms = 10,
                           .prefill_token_ms = 0.1,
                           .prefill_token2_ms = 0,
                           .decode_base_ms = 5,
                           .pass_tokens_max = 1000});
  ledger_.report(slot_, {.generation = 1,
                         .running = 3,
                         .kv_blocks_max = 1000,
                         .pass_started = now_ - std::chrono::milliseconds(2),
                         .pass = {.decodes = true}});
  leases_.push_back(ledger_.charge(slot_, {.prompt_tokens = 600, .uncached_tokens = 600}));
  Outlook outlook;
  outlook.refresh(ledger_.view(), slot_, 3000, 200);
  EXPECT_DOUBLE_EQ(outlook.glance().rest_ms(now_), 3);
  EXPECT_EQ(outlook.glance().rest_ms(now_ + std::chrono::seconds(1)), 0);
  // The next pass has room for 997 prompt tokens: 600 of the one before, 396 of the newcomer's
  // 500 (two answers begin in it), and 104 in the pass after, in which four answers run.
  const Added added = outlook.added({.tokens = 500, .blocks = 8}, 3);
  EXPECT_DOUBLE_EQ(added.waiting_ms, 0.1 * 396);
  EXPECT_DOUBLE_EQ(added.stalled_ms, 0.1 * 396 * 3 + (10 + 0.1 * 104) * 4);
  EXPECT_DOUBLE_EQ(added.first_token_ms, 3 + (10 + 0.1 * 996 + 5) + (10 + 0.1 * 104 + 5));
}

TEST_F(OutlookTest, APromptThatIsLoadedComesIntoAPassOnceThatIsDone) {
  slot_ = *ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  ledger_.set_cost(slot_, {.prefill_base_ms = 10,
                           .prefill_token_ms = 0.1,
                           .prefill_token2_ms = 0,
                           .decode_base_ms = 5,
                           .decode_use_ms = 0,
                           .pass_tokens_max = 1000});
  Outlook outlook;
  outlook.refresh(ledger_.view(), slot_, 3000, 200);
  const auto first_token_ms = [&](double load_ms, double rest_ms) {
    return outlook.added({.tokens = 100, .blocks = 8, .load_ms = load_ms}, rest_ms).first_token_ms;
  };
  EXPECT_DOUBLE_EQ(first_token_ms(0, 0), 10 + 0.1 * 100 + 5);
  EXPECT_DOUBLE_EQ(first_token_ms(40, 0), 40 + 10 + 0.1 * 100 + 5);
  EXPECT_DOUBLE_EQ(first_token_ms(40, 30), 40 + 10 + 0.1 * 100 + 5);  // it loads meanwhile
  EXPECT_DOUBLE_EQ(first_token_ms(40, 50), 50 + 10 + 0.1 * 100 + 5);
}

TEST_F(OutlookTest, CountsTheStepsOfAnswersAndTheRoomInAFullPool) {
  slot_ = *ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  ledger_.set_cost(slot_, {.prefill_base_ms = 10,
                           .prefill_token_ms = 0.1,
                           .decode_base_ms = 5,
                           .decode_use_ms = 50,
                           .pass_tokens_max = 1000});
  const auto added = [&](std::uint64_t generation, std::uint32_t kv_blocks_used,
                         double steps_max = 1000) {
    ledger_.report(slot_, {.generation = generation,
                           .running = 4,
                           .kv_blocks_used = kv_blocks_used,
                           .kv_blocks_max = 100});
    Outlook outlook;
    outlook.refresh(ledger_.view(), slot_, 3000, 200);
    return outlook.added({.tokens = 300, .blocks = 10, .steps_max = steps_max}, 0);
  };
  const Added half_full = added(1, 40);  // a step of 25 ms becomes one of 30
  EXPECT_DOUBLE_EQ(half_full.steps_ms, 200 * (30 + 2 * 5));
  EXPECT_DOUBLE_EQ(half_full.work_ms, 30);
  EXPECT_DOUBLE_EQ(added(2, 85).work_ms, 30 + 0.1 * 3000);
  // Who wants no more than two tokens pays for two steps, and is soon out of the way.
  EXPECT_DOUBLE_EQ(added(3, 40, 2).steps_ms, 2 * (30 + 2 * 5));
  EXPECT_DOUBLE_EQ(added(4, 85, 2).work_ms, 30 + 0.1 * 3000 * 2 / 200);
}

}  // namespace
}  // namespace penstock::router
