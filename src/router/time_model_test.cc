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
  for (const double prior : {1.0, 5.0, 20.0, 100.0, 800.0}) {
    TimeModel model({.prefill_token_ms = prior}, true);
    model.observe({.prefill_tokens = 448}, ms(true_ms(448)));
    for (const double tokens : {64.0, 200.0, 448.0, 2000.0}) {
      EXPECT_NEAR(model.cost().prefill_ms(tokens), true_ms(tokens), 0.2 * true_ms(tokens))
          << tokens << " tokens after a prior of " << prior;
    }
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
