#include "cli/simulate_report.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace penstock::cli {
namespace {

TEST(SimulatedJson, HasTheDocumentedKeys) {
  sim::Report report{.policy = "latency", .requests = 3, .completed = 2};
  report.ttft_ms = {.mean = 1234.567891, .p50 = 1, .p90 = 2, .p99 = 3};
  const SimulatedRun run{.report = report, .wall_s = 0.5, .peak_rss_bytes = 1 << 20};
  const std::string json = simulated_json(std::vector{run, run}, {.workers = 4});
  EXPECT_TRUE(json.starts_with(R"({"runs":[{"policy":"latency","workers":4,)"));
  EXPECT_TRUE(json.ends_with("}]}"));
  EXPECT_NE(json.find(R"("ttft_ms":{"mean":1234.567891,"p50":1,"p90":2,"p99":3})"),
            std::string::npos);
  for (const char* key :
       {"requests", "completed", "itl_ms", "tpot_ms", "e2e_ms", "prefix_hit_ratio",
        "requests_per_s", "output_tokens_per_s", "goodput_ratio", "imbalance", "duration_ms",
        "wall_s", "peak_rss_bytes", "failed", "shed", "retries"}) {
    EXPECT_NE(json.find('"' + std::string(key) + "\":"), std::string::npos) << key;
  }
}

TEST(SimulatedTable, HasARowARunAndSaysWhatDidNotEnd) {
  const sim::Report report{.policy = "latency", .requests = 3, .completed = 2, .rejected = 1};
  const std::string table =
      simulated_table(std::vector{SimulatedRun{.report = report}}, {.workers = 4});
  EXPECT_NE(table.find("latency"), std::string::npos);
  EXPECT_NE(table.find("2 of 3 completed, 1 rejected"), std::string::npos);
}

TEST(SimulatedTable, SaysWhatBecameOfRequestsWhereThingsGoWrong) {
  const sim::Report report{
      .policy = "latency", .requests = 9, .completed = 6, .failed = 2, .shed = 1, .retries = 4};
  sim::Setup setup{.workers = 4};
  setup.faults.event_loss = 0.1;
  const std::string table = simulated_table(std::vector{SimulatedRun{.report = report}}, setup);
  EXPECT_NE(table.find("6 of 9 completed, 0 rejected, 2 failed, 1 shed; 4 retries"),
            std::string::npos);
}

}  // namespace
}  // namespace penstock::cli
