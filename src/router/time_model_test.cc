#include "router/time_model.h"

#include <gtest/gtest.h>

#include "base/rng.h"

namespace penstock::router {
namespace {

Nanos ms(double value) { return Nanos(static_cast<std::int64_t>(value * 1e6)); }

/// A hundred times slower than the prior says.
double slow_ms(double tokens) { return 30 + 1.5 * tokens; }

TEST(TimeModel, LearnsASlowWorkerFromFewPasses) {
  TimeModel model;
  Rng rng(1);
  for (int pass = 0; pass < 20; ++pass) {
    const std::uint32_t tokens = 50 + rng.below(450);
    model.observe({.prefill_tokens = tokens, .decodes = true, .kv_use = 0.1},
                  ms(slow_ms(tokens) + 12));
    model.observe({.decodes = true, .kv_use = 0.1}, ms(12));
  }
  const fleet::PassCost cost = model.cost();
  for (const double tokens : {64.0, 200.0, 500.0}) {
    const double predicted = cost.prefill_ms(tokens) + cost.decode_ms(0.1);
    EXPECT_NEAR(predicted, slow_ms(tokens) + 12, 0.15 * slow_ms(tokens)) << tokens;
  }
}

TEST(TimeModel, OfARoughPriorOnePassLeavesLittle) {
  const auto true_ms = [](double tokens) { return 20 + 9 * tokens; };
  for (const double prior : {4.0, 20.0, 100.0, 800.0}) {
    TimeModel model({.prefill_token_ms = prior}, true);
    model.observe({.prefill_tokens = 448}, ms(true_ms(448)));
    for (const double tokens : {64.0, 200.0, 448.0, 2000.0}) {
      EXPECT_NEAR(model.cost().prefill_ms(tokens), true_ms(tokens), 0.25 * true_ms(tokens))
          << tokens << " tokens after a prior of " << prior;
    }
  }
}

/// Two workers on two cores: a pass takes as long as the other's lets it, a short one ever so long.
TEST(TimeModel, OfARoughPriorPassesThatVaryALotMakeNoNonsense) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    const double prior = 1 + rng.below(60);
    TimeModel model({.prefill_token_ms = prior}, true);
    for (int pass = 0; pass < 30; ++pass) {
      const std::uint32_t tokens = rng.below(2) == 0 ? 1 + rng.below(30) : 100 + rng.below(400);
      const double beside_ms = rng.below(3) == 0 ? rng.below(4000) : 0;
      const double factor = 0.5 + rng.below(1000) / 500.0;
      model.observe({.prefill_tokens = tokens}, ms(10 + 9 * tokens * factor + beside_ms));
      for (const double asked : {16.0, 64.0, 476.0, 2000.0}) {
        ASSERT_GE(model.cost().prefill_ms(asked), 0) << "seed " << seed << ", pass " << pass;
      }
    }
    // The middle of it is 1.5 times 9 ms, and 670 ms beside.
    EXPECT_GT(model.cost().prefill_ms(476), 2000) << seed;
    EXPECT_LT(model.cost().prefill_ms(476), 20'000) << seed;
  }
}

TEST(TimeModel, WhatWasLearnedStaysThroughManyPassesOfOneKind) {
  TimeModel model;
  for (std::uint32_t tokens = 50; tokens < 500; tokens += 10) {
    model.observe({.prefill_tokens = tokens}, ms(slow_ms(tokens)));
  }
  for (int pass = 0; pass < 100'000; ++pass)
    model.observe({.decodes = true, .kv_use = 0.5}, ms(12));
  EXPECT_NEAR(model.cost().prefill_ms(300), slow_ms(300), 0.1 * slow_ms(300));
  EXPECT_NEAR(model.cost().decode_ms(0.5), 12, 1);
}

}  // namespace
}  // namespace penstock::router
