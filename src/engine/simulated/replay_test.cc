// The model against published replays of a public trace, to the digits in which they were printed.

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "engine/simulated/replay_for_test.h"

namespace penstock::engine::simulated::replay {
namespace {

/// One row of Dynamo's offline replay (mocker 1.4.2, round robin, default arguments), ms.
struct Row {
  const char* name;
  std::size_t requests_max;
  Setup setup;
  double last_completion, ttft_mean, ttft_p99, itl_mean, tpot_mean, e2e_mean, reuse;
};

constexpr std::size_t kFirst = 1000;
constexpr std::size_t kAll = 12031;

// clang-format off
const Row kRows[] = {
    {"c1k_agg4_rr", kFirst, {.workers = 4}, 336030.276238, 544.045927, 2682.414558, 10.713422,
     13.010825, 4276.14131, 0.080782},
    {"c1k_agg8_rr", kFirst, {.workers = 8}, 335758.658734, 354.804489, 2125.391436, 7.75706,
     7.842773, 3057.030648, 0.05954},
    {"conv_agg4_rr", kAll, {.workers = 4}, 3545130.332088, 520.015268, 2619.607896, 10.459781,
     12.636631, 4093.274011, 0.082133},
    {"conv_agg8_rr", kAll, {.workers = 8}, 3542943.526737, 326.007639, 2076.659485, 7.574833,
     8.091352, 2913.71392, 0.081744},
    {"conv_agg4_rr_x2", kAll, {.workers = 4, .arrival_speedup = 2}, 1780555.100778, 622.095136,
     2891.888681, 24.868575, 27.213161, 9117.670279, 0.081832},
    {"conv_agg4_rr_x4", kAll, {.workers = 4, .arrival_speedup = 4}, 1157874.358544, 118132.257264,
     246135.974955, 86.885231, 89.765882, 147813.894431, 0.089881},
    {"conv_agg8_rr_c64", kAll, {.workers = 8, .concurrency = 64}, 1110552.502576, 330.154744,
     2302.599707, 16.217669, 16.260117, 5870.417046, 0.081591},
    {"conv_agg8_rr_c256", kAll, {.workers = 8, .concurrency = 256}, 729147.670901, 664.068703,
     6167.195148, 42.839105, 44.138147, 15298.716538, 0.081439},
};
// clang-format on

class Replay : public ::testing::TestWithParam<Row> {};

TEST_P(Replay, GivesThePublishedRow) {
  const auto path = conversation_trace();
  if (!path) {
    GTEST_SKIP() << "the Mooncake conversation trace is not here: set PENSTOCK_TRACES to the "
                    "folder that holds mooncake_conversation.jsonl";
  }
  const Row& row = GetParam();
  const Metrics m = replay(read_trace(*path, row.requests_max), row.setup);
  ASSERT_EQ(m.completed, row.requests_max);
  // The published numbers are rounded to six decimals; time there is a double, here it is exact.
  const auto expect = [](const char* what, double ours, double published) {
    EXPECT_NEAR(ours, published, 0.6e-6 + published * 1e-9) << what;
  };
  expect("last completion", m.last_completion, row.last_completion);
  expect("TTFT mean", m.ttft_mean, row.ttft_mean);
  expect("TTFT p99", m.ttft_p99, row.ttft_p99);
  expect("ITL mean", m.itl_mean, row.itl_mean);
  expect("TPOT mean", m.tpot_mean, row.tpot_mean);
  expect("E2E mean", m.e2e_mean, row.e2e_mean);
  expect("reuse", m.reuse, row.reuse);
  if (std::string(row.name) == "conv_agg4_rr_x4") {
    EXPECT_EQ(m.preemptions, 152U);
  }
}

INSTANTIATE_TEST_SUITE_P(Conversation, Replay, ::testing::ValuesIn(kRows),
                         [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace penstock::engine::simulated::replay
