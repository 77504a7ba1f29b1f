#include "cli/load/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <limits>
#include <string>

#include "cli/load/progress.h"

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

const TimePoint kReportBegin{1h};
const Window kReportWindow{
    .begin = kReportBegin, .from = kReportBegin, .until = kReportBegin + 10s};

LoadOptions some_options() {
  LoadOptions options;
  options.server = {.host = "example", .port = 80, .path = "/x"};
  options.request.model = "a \"model\"";
  options.pacing = Pacing::kRate;
  options.rate_per_s = 12.5;
  options.duration = 10s;
  options.slo = {.ttft = 150ms};
  return options;
}

RunResult some_result() {
  RunResult result{.statistics = Statistics(kReportWindow, some_options().slo), .window_time = 10s};
  for (int i = 1; i <= 100; ++i) {
    const TimePoint intended = kReportBegin + 1s;
    RequestRecord record{
        .intended = intended,
        .first = intended + i * 2ms,
        .last = intended + i * 2ms + 90ms,
        .end = intended + i * 2ms + 100ms,
        .events = 10,
        .events_in_window = 10,
        .status = 200,
        .usage = Usage{.prompt_tokens = 40, .cached_tokens = 10, .output_tokens = 10}};
    result.statistics.on_send(intended, intended + 1ms, false);
    result.statistics.on_end(record);
  }
  RequestRecord failed{.intended = kReportBegin,
                       .first = TimePoint::min(),
                       .end = kReportBegin + 1s,
                       .outcome = Outcome::kStatus,
                       .status = 429,
                       .message = "a \"b\"\x1b[31m\nc"};
  result.statistics.on_end(failed);
  return result;
}

class JsonReportTest : public testing::Test {
 protected:
  simdjson::dom::element parse(const std::string& json) {
    simdjson::dom::element root;
    EXPECT_EQ(parser_.parse(json).get(root), simdjson::SUCCESS) << json;
    return root;
  }
  simdjson::dom::parser parser_;
};

TEST_F(JsonReportTest, SaysWhatWasMeasured) {
  const std::string json = json_report(some_options(), some_result());
  EXPECT_EQ(json.find('\n'), std::string::npos);
  const auto root = parse(json);
  EXPECT_EQ(std::string_view(root.at_pointer("/target/model")), "a \"model\"");
  EXPECT_EQ(std::string_view(root.at_pointer("/target/path")), "/x/v1/chat/completions");
  EXPECT_EQ(std::string_view(root.at_pointer("/load/pacing")), "rate");
  EXPECT_EQ(double(root.at_pointer("/load/rate_per_s")), 12.5);
  EXPECT_EQ(double(root.at_pointer("/window_s")), 10);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/requests/ok")), 100U);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/requests/failed")), 1U);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/errors/status")), 1U);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/errors/timeout")), 0U);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/errors/by_status/429")), 1U);
  EXPECT_EQ(std::string_view(root.at_pointer("/errors/samples/status")), "a \"b\"\x1b[31m\nc");
  EXPECT_EQ(double(root.at_pointer("/rates/requests_per_s")), 10);
  EXPECT_EQ(double(root.at_pointer("/rates/output_tokens_per_s")), 100);
  EXPECT_EQ(double(root.at_pointer("/rates/prompt_tokens_per_s")), 400);
  EXPECT_EQ(double(root.at_pointer("/tokens/cached_ratio")), 0.25);
  EXPECT_EQ(std::uint64_t(root.at_pointer("/goodput/good")), 75U);  // TTFT up to 150 ms
  EXPECT_EQ(double(root.at_pointer("/goodput/requests_per_s")), 7.5);
  EXPECT_NEAR(double(root.at_pointer("/latency_ms/ttft/p50")), 100, 0.1);
  EXPECT_NEAR(double(root.at_pointer("/latency_ms/ttft/p99")), 198, 0.2);
  EXPECT_NEAR(double(root.at_pointer("/latency_ms/ttft/max")), 200, 1e-3);
  EXPECT_NEAR(double(root.at_pointer("/latency_ms/tpot/mean")), 10, 1e-3);
  EXPECT_NEAR(double(root.at_pointer("/latency_ms/e2e/mean")), 201, 1e-3);
  EXPECT_TRUE(bool(root.at_pointer("/generator/kept_up")));
}

TEST_F(JsonReportTest, WhatWasNotMeasuredIsNull) {
  LoadOptions options = some_options();
  options.slo = {};
  options.duration.reset();
  const auto root = parse(json_report(options, {.statistics = Statistics(kReportWindow, {})}));
  for (const char* field :
       {"/goodput", "/load/duration_s", "/load/requests", "/rates/requests_per_s",
        "/rates/output_tokens_per_s", "/rates/prompt_tokens_per_s", "/tokens/prompt",
        "/tokens/cached_ratio", "/latency_ms/ttft/p50", "/latency_ms/itl/mean",
        "/generator/send_lag_ms/max"}) {
    EXPECT_TRUE(root.at_pointer(field).is_null()) << field;
  }
}

TEST(TextReportTest, ShowsTheFiguresAndNothingHarmful) {
  const std::string text = text_report(some_options(), some_result());
  EXPECT_THAT(text, HasSubstr("100 ok, 1 failed"));
  EXPECT_THAT(text, HasSubstr("25.0 % cached"));
  EXPECT_THAT(text, HasSubstr("first: a \"b\" [31m c"));
  EXPECT_THAT(text, HasSubstr("TTFT"));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(text, Not(HasSubstr("NOTE")));
}

TEST(TextReportTest, SaysWhatMakesItDoubtful) {
  RunResult result = some_result();
  result.interrupted = true;
  Statistics& s = result.statistics;
  const TimePoint intended = kReportBegin + 1s;
  for (int i = 0; i < 5; ++i) s.on_send(intended, intended + 1s, false);
  s.on_send(intended, intended + 1s, true);
  s.on_end(
      {.intended = intended, .first = intended, .last = intended, .end = intended, .events = 1});
  EXPECT_FALSE(kept_up(s));
  const std::string text = text_report(some_options(), result);
  EXPECT_THAT(text, HasSubstr("could not keep up: 5 of 106 sends"));
  EXPECT_THAT(text, HasSubstr("1 request had to wait"));
  EXPECT_THAT(text, HasSubstr("no usage for 1 request"));
  EXPECT_THAT(text, HasSubstr("interrupted"));
}

TEST(TextReportTest, AnEmptyRunIsNoAccident) {
  const std::string text =
      text_report(some_options(), {.statistics = Statistics(kReportWindow, {})});
  EXPECT_THAT(text, HasSubstr("0 ok, 0 failed"));
  EXPECT_THAT(text, Not(HasSubstr("nan")));
  EXPECT_THAT(text, Not(HasSubstr("inf")));
}

TEST(FailuresTest, IncludeTheWarmUpButNotWhatTheUserCutOff) {
  RunResult result = some_result();
  RequestRecord record{.intended = kReportBegin - 1s, .outcome = Outcome::kEmpty};
  result.statistics.on_end(record);
  record = {.intended = kReportBegin, .outcome = Outcome::kUnfinished};
  result.statistics.on_end(record);
  EXPECT_EQ(failures(result), 2U);
}

TEST(ProgressTest, ShowsRatesSinceTheLastLinesAndCoversTheLineBefore) {
  const LoadOptions options = some_options();
  LiveCounters live;
  Progress progress(options, kReportWindow, live);
  live.begun = 30;
  live.ended = 20;
  live.failed = 123456;
  live.content_events = 500;
  live.ttft_count = 10;
  live.ttft_sum_ns = Nanos(250ms).count();
  const std::string first = progress.line(kReportBegin + 5s);
  EXPECT_THAT(first, HasSubstr("50 %"));
  EXPECT_THAT(first, HasSubstr(" 4.0 requests/s  100 tokens/s  TTFT 25.0 ms  10 in flight"));
  live.begun = 40;
  live.ended = 40;
  live.failed = 0;
  const std::string second = progress.line(kReportBegin + 15s);
  EXPECT_THAT(second, HasSubstr("finish  [########################] 100 %  2.0 requests/s"));
  EXPECT_THAT(second, Not(HasSubstr("TTFT")));
  EXPECT_EQ(second.size(), first.size());
}

}  // namespace
}  // namespace penstock::cli::load
