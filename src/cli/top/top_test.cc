#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "cli/top/frame.h"
#include "cli/top/sample.h"

namespace penstock::cli::top {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kWorkers =
    R"({"model":"demo","policy":"latency","block_tokens":64,"workers":[)"
    R"({"worker":0,"state":"ready","trust":"exact","doubt":null,"requests":3,"running":2,)"
    R"("waiting":1,"prefill_tokens_left":512,"kv_blocks":30,"kv_blocks_max":120,)"
    R"("kv_blocks_active":8,"kv_blocks_active_max":16,"prompt_tokens":1000,"cached_tokens":750,)"
    R"("completion_tokens":400,"errors":0,"cache":{"forecasts":10,"forecasts_equal":9}},)"
    R"({"worker":1,"state":"suspect","trust":"degraded","doubt":"orphans","errors":2}]})";

constexpr std::string_view kMetrics =
    "# HELP penstock_requests_in_flight Requests\n"
    "penstock_requests_in_flight 3\n"
    "penstock_requests_total{endpoint=\"completions\",status=\"200\"} 40\n"
    "penstock_requests_total{endpoint=\"completions\",status=\"429\"} 2\n"
    "penstock_completion_tokens_total 400\n"
    "penstock_time_to_first_token_seconds_bucket{le=\"0.1\"} 10\n"
    "penstock_time_to_first_token_seconds_bucket{le=\"0.2\"} 20\n"
    "penstock_time_to_first_token_seconds_bucket{le=\"+Inf\"} 20\n"
    "penstock_time_to_first_token_seconds_sum 3\n";

TEST(TopSample, ReadsBothPages) {
  const Result<Sample> sample = read_sample(kWorkers, kMetrics, TimePoint{});
  ASSERT_TRUE(sample.has_value());
  EXPECT_EQ(sample->model, "demo");
  ASSERT_EQ(sample->workers.size(), 2U);
  EXPECT_EQ(sample->workers[0].kv_blocks_active, 8U);
  EXPECT_EQ(sample->workers[0].forecasts_equal, 9U);
  EXPECT_EQ(sample->workers[1].doubt, "orphans");
  EXPECT_EQ(sample->in_flight, 3);
  EXPECT_EQ(sample->requests, 42);
  EXPECT_EQ(sample->ttft.count(), 20);
  EXPECT_DOUBLE_EQ(sample->ttft.quantile_ms(0.5), 100);
  EXPECT_DOUBLE_EQ(sample->ttft.quantile_ms(0.75), 150);
  EXPECT_LT(sample->gap.quantile_ms(0.5), 0);
}

TEST(TopSample, RefusesWhatIsNoListOfWorkers) {
  EXPECT_FALSE(read_sample("{}", kMetrics, TimePoint{}));
  EXPECT_FALSE(read_sample("<html>", kMetrics, TimePoint{}));
  EXPECT_TRUE(read_sample(R"({"workers":[1,"x"]})", "nonsense\n{ 7\n", TimePoint{}));
}

TEST(TopSample, AHistogramSinceAnother) {
  const double inf = std::numeric_limits<double>::infinity();
  const HistogramSample before{{{0.1, 10}, {0.2, 10}, {inf, 10}}};
  const HistogramSample now{{{0.1, 10}, {0.2, 14}, {inf, 15}}};
  const HistogramSample fresh = now.since(before);
  EXPECT_EQ(fresh.count(), 5);
  EXPECT_DOUBLE_EQ(fresh.quantile_ms(0.4), 150);
  EXPECT_DOUBLE_EQ(fresh.quantile_ms(1), 200);  // beyond the last bound nothing is known
  EXPECT_EQ(now.since({}).count(), 15);
}

TEST(TopFrame, ShowsWhatIsThereAndRatesOnlyBetweenTwoLooks) {
  Sample before = *read_sample(kWorkers, kMetrics, TimePoint{});
  Sample now = before;
  const std::string first = frame("http://x", now, nullptr, {.columns = 200});
  EXPECT_THAT(first, HasSubstr("model demo   policy latency   workers 2"));
  EXPECT_THAT(first, HasSubstr("tokens/s -"));
  EXPECT_THAT(first, HasSubstr("#####.....  50 %"));
  EXPECT_THAT(first, HasSubstr("75 %"));  // hits
  EXPECT_THAT(first, HasSubstr("orphans  2 errors"));
  EXPECT_THAT(first, Not(HasSubstr("\x1b")));

  now.at += std::chrono::seconds(2);
  now.completion_tokens += 100;
  now.workers[0].completion_tokens += 100;
  const std::string second = frame("http://x", now, &before, {.colour = true, .columns = 200});
  EXPECT_THAT(second, HasSubstr("tokens/s 50"));
  EXPECT_THAT(second, HasSubstr("\x1b[32mready"));
  EXPECT_THAT(second, HasSubstr("\x1b[31msuspect"));
}

TEST(TopFrame, KeepsToTheTerminalsWidth) {
  const Sample now = *read_sample(kWorkers, kMetrics, TimePoint{});
  const std::string text = frame("http://a-long-name-of-a-host", now, nullptr, {.columns = 40});
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = text.find('\n', begin);
    EXPECT_LE(end - begin, 40U);
    begin = end + 1;
  }
}

}  // namespace
}  // namespace penstock::cli::top
