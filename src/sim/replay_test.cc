// The whole way, from the trace through router, ledger and index to the metrics, against published
// replays of Dynamo's mocker 1.4.2.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sim/content.h"
#include "sim/simulation.h"
#include "sim/trace_for_test.h"

namespace penstock::sim {
namespace {

constexpr std::size_t kFirst = 1000;
constexpr std::size_t kAll = 12031;

struct Row {
  const char* name;
  std::size_t requests;
  Setup setup;
  double last_completion, ttft_mean, ttft_p99, itl_mean, tpot_mean, e2e_mean, reuse;

  // NOLINTNEXTLINE(readability-identifier-naming): gtest's
  friend void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }
};

// clang-format off
const Row kRoundRobin[] = {
    {"c1k_agg4_rr", kFirst, {.workers = 4}, 336030.276238, 544.045927, 2682.414558, 10.713422,
     13.010825, 4276.14131, 0.080782},
    {"c1k_agg8_rr", kFirst, {.workers = 8}, 335758.658734, 354.804489, 2125.391436, 7.75706,
     7.842773, 3057.030648, 0.05954},
    {"conv_agg4_rr", kAll, {.workers = 4}, 3545130.332088, 520.015268, 2619.607896, 10.459781,
     12.636631, 4093.274011, 0.082133},
    {"conv_agg8_rr", kAll, {.workers = 8}, 3542943.526737, 326.007639, 2076.659485, 7.574833,
     8.091352, 2913.71392, 0.081744},
    {"conv_agg4_rr_x2", kAll, {.workers = 4, .speed = 2}, 1780555.100778, 622.095136,
     2891.888681, 24.868575, 27.213161, 9117.670279, 0.081832},
    {"conv_agg4_rr_x4", kAll, {.workers = 4, .speed = 4}, 1157874.358544, 118132.257264,
     246135.974955, 86.885231, 89.765882, 147813.894431, 0.089881},
    {"conv_agg8_rr_c64", kAll, {.workers = 8, .concurrency = 64}, 1110552.502576, 330.154744,
     2302.599707, 16.217669, 16.260117, 5870.417046, 0.081591},
    {"conv_agg8_rr_c256", kAll, {.workers = 8, .concurrency = 256}, 729147.670901, 664.068703,
     6167.195148, 42.839105, 44.138147, 15298.716538, 0.081439},
    {"c1k_4p4d_rr", kFirst, {.workers = 0, .prefill_workers = 4, .decode_workers = 4},
     336157.890417, 728.564927, 3067.027167, 7.953391, 7.871739, 3499.184197, 0.079687},
    {"conv_4p4d_rr", kAll, {.workers = 0, .prefill_workers = 4, .decode_workers = 4},
     3542883.414014, 699.546977, 2864.430805, 7.789151, 7.718031, 3360.468109, 0.081993},
};
// clang-format on

class RoundRobinReplay : public ::testing::TestWithParam<Row> {};

TEST_P(RoundRobinReplay, GivesThePublishedRow) {
  const Row& row = GetParam();
  const auto trace = conversation(row.requests);
  PENSTOCK_SKIP_WITHOUT(trace);
  const Result<Report> report = simulate(*trace, row.setup);
  ASSERT_TRUE(report.has_value());
  ASSERT_EQ(report->completed, row.requests);
  const auto expect = [&](const char* what, double ours, double published) {
    EXPECT_NEAR(ours, published, 0.6e-6 + published * 1e-9) << what;
  };
  expect("last completion", report->duration_ms, row.last_completion);
  expect("TTFT mean", report->ttft_ms.mean, row.ttft_mean);
  expect("TTFT p99", report->ttft_ms.p99, row.ttft_p99);
  expect("ITL mean", report->itl_ms.mean, row.itl_mean);
  expect("TPOT mean", report->tpot_ms.mean, row.tpot_mean);
  expect("E2E mean", report->e2e_ms.mean, row.e2e_mean);
  expect("reuse", report->prefix_hit_ratio, row.reuse);
  if (std::string_view(row.name) == "conv_agg4_rr_x4") {
    EXPECT_EQ(report->preemptions, 152U);
  }
}

INSTANTIATE_TEST_SUITE_P(Conversation, RoundRobinReplay, ::testing::ValuesIn(kRoundRobin),
                         [](const auto& row) { return std::string(row.param.name); });

/// Every choice of the dynamo policy, against its cost from plain sets: what was given to whom,
/// what was told of which cache.
class DynamoChecker final : public Observer {
 public:
  DynamoChecker(const Trace& trace, std::uint32_t workers) : trace_(trace), workers_(workers) {}

  [[nodiscard]] bool wants_placements() const noexcept override { return true; }
  void told(Slot worker, const fleet::KvBatch& batch) override { batch.apply(*this, worker); }

  void placed(std::size_t request, router::Stage, Slot worker,
              const router::Explanation& why) override {
    const TraceRequest& r = trace_.requests[request];
    std::vector<kv::BlockHash> keys;
    keys_of(trace_, r, kBlockTokens, keys);
    std::vector<std::uint64_t> blocks;
    for (const kv::BlockHash& key : keys) blocks.push_back(content_hash(key));
    ASSERT_EQ(why.rows().size(), workers_.size());
    std::vector<double> costs;
    for (Slot w = 0; w < workers_.size(); ++w) {
      const Worker& at = workers_[w];
      costs.push_back(
          std::max(0.0, (at.pending + r.input_tokens) / kBlockTokens - leading(at.cached, blocks)) +
          static_cast<double>(at.active.size() + blocks.size()) - leading(at.active, blocks));
      EXPECT_EQ(why.rows()[w].cost, costs.back()) << "request " << request << " at " << w;
    }
    EXPECT_EQ(costs[worker], std::ranges::min(costs)) << "request " << request;
    Worker& at = workers_[worker];
    const double uncached = r.input_tokens - kBlockTokens * leading(at.cached, blocks);
    at.pending += uncached;
    for (const std::uint64_t block : blocks) ++at.active[block];
    given_[request] = {.worker = worker, .pending = uncached, .blocks = std::move(blocks)};
    overlaps += leading(at.cached, given_[request].blocks) > 0 ? 1 : 0;
    ++placements;
  }
  void first_token(std::size_t request) override {
    workers_[given_[request].worker].pending -= std::exchange(given_[request].pending, 0);
  }
  void ended(std::size_t request) override {
    const Given& given = given_[request];
    auto& active = workers_[given.worker].active;
    for (const std::uint64_t block : given.blocks) {
      if (--active[block] == 0) active.erase(block);
    }
    given_.erase(request);
  }

  // As KvBatch::apply() wants it of an index.
  bool stored(Slot worker, kv::Tier, std::optional<std::uint64_t>,
              std::span<const kv::StoredBlock> blocks) {
    for (const kv::StoredBlock& block : blocks) workers_[worker].cached.insert(block.alias);
    return true;
  }
  void removed(Slot worker, kv::Tier, std::span<const std::uint64_t> blocks) {
    for (const std::uint64_t block : blocks) workers_[worker].cached.erase(block);
  }
  void cleared(Slot worker) { workers_[worker].cached.clear(); }

  int placements = 0;
  int overlaps = 0;  // of those, where something was cached

 private:
  static constexpr std::uint32_t kBlockTokens = 64;
  struct Worker {
    std::unordered_set<std::uint64_t> cached;
    std::unordered_map<std::uint64_t, int> active;  // blocks, by how many requests in flight
    double pending = 0;                             // uncached tokens of prompts not yet computed
  };
  struct Given {
    Slot worker = 0;
    double pending = 0;
    std::vector<std::uint64_t> blocks;
  };

  static double leading(const auto& set, const std::vector<std::uint64_t>& blocks) {
    const auto end =
        std::ranges::find_if(blocks, [&](std::uint64_t block) { return !set.contains(block); });
    return static_cast<double>(end - blocks.begin());
  }

  const Trace& trace_;
  std::vector<Worker> workers_;
  std::map<std::size_t, Given> given_;
};

TEST(DynamoReplay, EachChoiceIsOneOfTheCheapest) {
  const auto trace = conversation(kFirst);
  PENSTOCK_SKIP_WITHOUT(trace);
  DynamoChecker checker(*trace, 4);
  ASSERT_TRUE(simulate(*trace, {.policy = "dynamo", .workers = 4}, &checker).has_value());
  EXPECT_EQ(checker.placements, kFirst);
  EXPECT_GT(checker.overlaps, 100);
}

TEST(EarlyHandOver, BringsFirstTokensForward) {
  const auto trace = conversation(kFirst);
  PENSTOCK_SKIP_WITHOUT(trace);
  sim::Setup setup{.workers = 0, .prefill_workers = 4, .decode_workers = 4};
  const Result<Report> late = simulate(*trace, setup);
  setup.early_hand_over = true;
  const Result<Report> early = simulate(*trace, setup);
  ASSERT_TRUE(late.has_value() && early.has_value());
  EXPECT_LT(early->ttft_ms.mean, 0.8 * late->ttft_ms.mean);
  EXPECT_GT(early->prefix_hit_ratio, late->prefix_hit_ratio);  // no answers in the caches
}

TEST(LatencyReplay, TwoRoutersThatPlaceTogetherComeWithinThreePercentOfOne) {
  const auto trace = conversation(kFirst);
  PENSTOCK_SKIP_WITHOUT(trace);
  sim::Setup setup{.policy = "latency", .workers = 8};
  setup.event_delay = setup.load_delay = std::chrono::milliseconds(50);
  const Result<Report> one = simulate(*trace, setup);
  setup.routers = 2;
  const Result<Report> two = simulate(*trace, setup);
  ASSERT_TRUE(one.has_value() && two.has_value());
  EXPECT_GE(two->goodput_ratio, 0.97 * one->goodput_ratio);
  EXPECT_LE(two->ttft_ms.p99, 1.03 * one->ttft_ms.p99);
  setup.placing = Placing::kApart;  // which is what it is better than
  const Result<Report> apart = simulate(*trace, setup);
  ASSERT_TRUE(apart.has_value());
  EXPECT_GT(apart->ttft_ms.p99, 1.03 * one->ttft_ms.p99);
}

TEST(LatencyReplay, PassesTheMarks) {
  const auto trace = conversation(kAll);
  PENSTOCK_SKIP_WITHOUT(trace);
  const Result<Report> eight = simulate(*trace, {.policy = "latency", .workers = 8});
  ASSERT_TRUE(eight.has_value());
  EXPECT_LE(eight->ttft_ms.mean, 230);
  EXPECT_LE(eight->tpot_ms.mean, 7.7);
  const Result<Report> four = simulate(*trace, {.policy = "latency", .workers = 4});
  ASSERT_TRUE(four.has_value());
  EXPECT_LE(four->ttft_ms.mean, 390);
  EXPECT_LE(four->tpot_ms.mean, 12.6);
  const Result<Report> twice = simulate(*trace, {.policy = "latency", .workers = 4, .speed = 2});
  ASSERT_TRUE(twice.has_value());
  EXPECT_LE(twice->ttft_ms.mean, 425);
  EXPECT_LE(twice->tpot_ms.mean, 23.2);
}

}  // namespace
}  // namespace penstock::sim
