#include "cli/load/statistics.h"

#include <gtest/gtest.h>

#include <deque>

#include "base/clock.h"
#include "cli/load/arrivals.h"
#include "cli/load/pacer.h"

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;

const TimePoint kBegin{1h};
const Window kWindow{.begin = kBegin, .from = kBegin + 10s, .until = kBegin + 20s};

/// A streamed request that ended well: `events` content events from `first` to `last`.
RequestRecord streamed(Nanos intended, Nanos first, Nanos last, std::uint64_t events) {
  return {.intended = kBegin + intended,
          .first = kBegin + first,
          .last = kBegin + last,
          .end = kBegin + last,
          .events = events,
          .events_in_window = events,
          .status = 200,
          .usage = Usage{.prompt_tokens = 100, .cached_tokens = 25, .output_tokens = events}};
}

TEST(StatisticsTest, LatenciesAreOfTheRequestsIntendedInTheWindow) {
  Statistics s(kWindow, {});
  s.on_end(streamed(9s, 11s, 12s, 3));  // warm-up, though it ends in the window
  s.on_end(streamed(10s, 11s, 12s, 5));
  s.on_end(streamed(19s, 50s, 60s, 3));  // ends long after the window
  EXPECT_EQ(s.ttft.count(), 2U);
  EXPECT_EQ(s.ttft.max(), 31s);
  EXPECT_EQ(s.end_to_end.max(), 41s);
  EXPECT_NEAR(to_ms(s.tpot.percentile(50)), 250, 1);  // 1 s for the four tokens after the first
  EXPECT_EQ(s.tpot.max(), 5s);
  EXPECT_EQ(s.ended[0], 2U);
  EXPECT_EQ(s.prompt_tokens, 200U);
  EXPECT_EQ(s.cached_tokens, 50U);
  EXPECT_EQ(s.output_tokens, 8U);
}

TEST(StatisticsTest, RatesAreOfWhatHappenedInTheWindow) {
  Statistics s(kWindow, {});
  RequestRecord before = streamed(5s, 9s, 12s, 4);
  before.events_in_window = 3;
  before.usage->output_tokens = 8;  // two tokens an event
  s.on_end(before);
  RequestRecord after = streamed(15s, 19s, 30s, 10);
  after.events_in_window = 1;
  s.on_end(after);
  EXPECT_EQ(s.requests_in_window, 1U);
  EXPECT_DOUBLE_EQ(s.output_tokens_in_window, 6 + 1);
  EXPECT_EQ(s.prompt_tokens_in_window, 100U);  // the first one was prefilled before

  RequestRecord whole = streamed(15s, 0s, 0s, 0);  // not streamed
  whole.first = TimePoint::min();
  whole.end = kBegin + 16s;
  whole.usage->output_tokens = 5;
  s.on_end(whole);
  EXPECT_DOUBLE_EQ(s.output_tokens_in_window, 6 + 1 + 5);
  EXPECT_EQ(s.ttft.count(), 1U);
  EXPECT_EQ(s.end_to_end.count(), 2U);
}

TEST(StatisticsTest, FailuresAreCountedByKindAndHaveNoLatency) {
  Statistics s(kWindow, {});
  for (const int status : {429, 429, 500}) {
    RequestRecord record = streamed(11s, 12s, 13s, 2);
    record.outcome = Outcome::kStatus;
    record.status = status;
    record.message = std::to_string(status);
    s.on_end(record);
  }
  RequestRecord warm_up = streamed(1s, 2s, 3s, 2);
  warm_up.outcome = Outcome::kTimeout;
  s.on_end(warm_up);
  RequestRecord cut = streamed(11s, 12s, 13s, 2);
  cut.outcome = Outcome::kUnfinished;
  s.on_end(cut);
  EXPECT_EQ(s.ended[static_cast<std::size_t>(Outcome::kStatus)], 3U);
  EXPECT_EQ(s.ended[static_cast<std::size_t>(Outcome::kTimeout)], 0U);
  EXPECT_EQ(s.ended[static_cast<std::size_t>(Outcome::kUnfinished)], 1U);
  EXPECT_EQ(s.failed_by_status, (std::map<int, std::uint64_t>{{429, 2}, {500, 1}}));
  EXPECT_EQ(s.sample_messages[static_cast<std::size_t>(Outcome::kStatus)], "429");
  EXPECT_EQ(s.failed_in_warm_up, 1U);
  EXPECT_EQ(s.ttft.count(), 0U);
  EXPECT_EQ(s.end_to_end.count(), 0U);
  EXPECT_EQ(s.requests_in_window, 0U);
}

TEST(StatisticsTest, GoodMeansWellAndWithinBothLimits) {
  Statistics s(kWindow, {.ttft = 500ms, .itl = 100ms});
  s.on_end(streamed(11s, 11500ms, 12500ms, 11));  // exactly at both limits
  s.on_end(streamed(11s, 11501ms, 12501ms, 11));  // TTFT
  s.on_end(streamed(11s, 11500ms, 12511ms, 11));  // 101.1 ms a token
  s.on_end(streamed(11s, 11400ms, 11400ms, 1));   // a single token has no ITL
  RequestRecord failed = streamed(11s, 11100ms, 11200ms, 11);
  failed.outcome = Outcome::kEmpty;
  s.on_end(failed);
  EXPECT_EQ(s.good, 2U);
  EXPECT_EQ(s.good_in_window, 2U);
}

TEST(StatisticsTest, WithoutUsageContentEventsCount) {
  RequestRecord record = streamed(11s, 12s, 13s, 6);
  record.usage.reset();
  Statistics s(kWindow, {});
  s.on_end(record);
  EXPECT_EQ(s.output_tokens, 6U);
  EXPECT_EQ(s.with_usage, 0U);
  EXPECT_EQ(s.tpot.max(), 200ms);
}

TEST(StatisticsTest, LateSendsAreTheGeneratorsFaultUnlessTheyWaitedForASlot) {
  Statistics s(kWindow, {});
  const TimePoint intended = kBegin + 15s;
  s.on_send(intended, intended + 10ms, false);
  s.on_send(intended, intended + 11ms, false);
  s.on_send(intended, intended + 3s, true);
  s.on_send(kBegin, kBegin + 9s, false);  // warm-up
  EXPECT_EQ(s.send_lag.count(), 3U);
  EXPECT_EQ(s.late_sends, 1U);
  EXPECT_EQ(s.waited_for_slot, 1U);
}

TEST(StatisticsTest, MergedIsAsIfCountedInOne) {
  Statistics whole(kWindow, {.ttft = 1s});
  Statistics parts[2] = {whole, whole};
  for (int i = 0; i < 100; ++i) {
    RequestRecord record = streamed(
        std::chrono::milliseconds(9500 + 100 * i), std::chrono::milliseconds(10000 + 130 * i),
        std::chrono::milliseconds(11000 + 150 * i), static_cast<std::uint64_t>(i));
    if (i % 10 == 0) record.outcome = Outcome::kStatus;
    record.status = 500 + i % 3;
    record.message = "m";
    for (Statistics* s : {&whole, &parts[i % 2]}) {
      s->on_send(record.intended, record.intended + std::chrono::milliseconds(i), i % 7 == 0);
      s->on_gap(record.intended, std::chrono::microseconds(i));
      s->on_end(record);
    }
  }
  Statistics merged = parts[0];
  merged.merge(parts[1]);
  EXPECT_EQ(merged.ended, whole.ended);
  EXPECT_EQ(merged.failed_by_status, whole.failed_by_status);
  EXPECT_EQ(merged.sample_messages, whole.sample_messages);
  for (const auto h : {&Statistics::ttft, &Statistics::itl, &Statistics::tpot,
                       &Statistics::end_to_end, &Statistics::send_lag}) {
    EXPECT_EQ((merged.*h).count(), (whole.*h).count());
    EXPECT_EQ((merged.*h).mean(), (whole.*h).mean());
    EXPECT_GT((merged.*h).count(), 0U);
  }
  for (const auto n :
       {&Statistics::good, &Statistics::prompt_tokens, &Statistics::cached_tokens,
        &Statistics::output_tokens, &Statistics::with_usage, &Statistics::late_sends,
        &Statistics::waited_for_slot, &Statistics::requests_in_window, &Statistics::good_in_window,
        &Statistics::prompt_tokens_in_window, &Statistics::failed_in_warm_up}) {
    EXPECT_EQ(merged.*n, whole.*n);
    EXPECT_GT(merged.*n, 0U);
  }
  EXPECT_DOUBLE_EQ(merged.output_tokens_in_window, whole.output_tokens_in_window);
}

/// Coordinated omission: a server that answers one request at a time in 1 ms stands still for a
/// second in the middle of a run of 100 requests/s. Users who came in that second waited up to a
/// second; a client that only counts from when it could send sees one slow request.
TEST(CoordinatedOmissionTest, AStallIsSeenByEveryoneWhoWouldHaveMetIt) {
  ManualClock clock;
  clock.advance(1h);
  const TimePoint begin = clock.now();
  const Window window{.begin = begin, .from = begin, .until = begin + 5s};
  Statistics s(window, {});
  const auto pacer = make_open_pacer({.window = window, .slots = 1},
                                     make_rate_arrivals(100, Spacing::kUniform, 0));
  Histogram from_send;  // what an uncorrected client would see
  bool stalled = false;
  while (!pacer->closed()) {
    const auto start = pacer->next(clock.now());
    if (!start) {
      clock.advance(*pacer->wake_at() - clock.now());
      continue;
    }
    const TimePoint sent = clock.now();
    s.on_send(start->intended, sent, start->waited_for_slot);
    const bool stalls = !stalled && sent - begin >= 2s;
    stalled = stalled || stalls;
    clock.advance(stalls ? 1s : 1ms);
    RequestRecord record{.intended = start->intended,
                         .first = clock.now(),
                         .last = clock.now(),
                         .end = clock.now(),
                         .events = 1};
    s.on_end(record);
    from_send.record(clock.now() - sent);
    pacer->slot_free(clock.now(), false);
  }
  EXPECT_EQ(s.ttft.count(), 500U);
  EXPECT_EQ(s.ttft.max(), 1s);
  // About 110 of 500 came during the stall or while its queue drained: 22 %.
  EXPECT_GT(s.ttft.percentile(90), 500ms);
  EXPECT_LT(s.ttft.percentile(75), 2ms);
  EXPECT_LT(from_send.percentile(99), 2ms);
  EXPECT_EQ(s.late_sends, 0U);
  EXPECT_GT(s.waited_for_slot, 100U);
}

}  // namespace
}  // namespace penstock::cli::load
