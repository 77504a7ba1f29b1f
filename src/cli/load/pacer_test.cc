#include "cli/load/pacer.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;

const TimePoint kPaceBegin{1h};

std::unique_ptr<Arrivals> uniform(double rate_per_s) {
  return make_rate_arrivals(rate_per_s, Spacing::kUniform, 0);
}

std::vector<std::uint64_t> take_all(Pacer& pacer, TimePoint now) {
  std::vector<std::uint64_t> sessions;
  while (const auto start = pacer.next(now)) sessions.push_back(start->session);
  return sessions;
}

TEST(OpenPacerTest, BeginsEachSessionWhenItIsDue) {
  const auto pacer = make_open_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin}, .slots = 9}, uniform(10));
  ASSERT_EQ(pacer->wake_at(), kPaceBegin);
  EXPECT_EQ(take_all(*pacer, kPaceBegin), std::vector<std::uint64_t>{0});
  EXPECT_EQ(pacer->wake_at(), kPaceBegin + 100ms);
  EXPECT_TRUE(take_all(*pacer, kPaceBegin + 99ms).empty());
  const auto start = pacer->next(kPaceBegin + 130ms);
  ASSERT_TRUE(start);
  EXPECT_EQ(start->intended, kPaceBegin + 100ms);  // a late look does not move it
  EXPECT_FALSE(start->waited_for_slot);
}

TEST(OpenPacerTest, ThreadsShareTheSessionsAndLeaveNoneOut) {
  std::set<std::uint64_t> all;
  for (std::size_t thread = 0; thread < 3; ++thread) {
    const auto pacer = make_open_pacer({.window = {.begin = kPaceBegin, .from = kPaceBegin},
                                        .slots = 1000,
                                        .thread = thread,
                                        .threads = 3},
                                       make_rate_arrivals(100, Spacing::kPoisson, 8));
    for (const std::uint64_t session : take_all(*pacer, kPaceBegin + 2s)) {
      EXPECT_EQ(session % 3, thread);
      EXPECT_TRUE(all.insert(session).second);
    }
  }
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(*all.rbegin() + 1, all.size());
}

TEST(OpenPacerTest, StopsAtTheEndOfTheWindow) {
  const auto pacer = make_open_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin, .until = kPaceBegin + 1s},
       .slots = 1000},
      uniform(10));
  EXPECT_EQ(take_all(*pacer, kPaceBegin + 1h).size(), 10U);
  EXPECT_TRUE(pacer->closed());
  EXPECT_FALSE(pacer->wake_at());
}

TEST(OpenPacerTest, WarmUpDoesNotCountAsMeasured) {
  const auto pacer = make_open_pacer({.window = {.begin = kPaceBegin, .from = kPaceBegin + 1s},
                                      .measured_sessions_max = 5,
                                      .slots = 1000},
                                     uniform(10));
  EXPECT_EQ(take_all(*pacer, kPaceBegin + 1h).size(), 10U + 5U);
  EXPECT_TRUE(pacer->closed());
}

TEST(OpenPacerTest, WithoutASlotArrivalsWaitAndKeepTheirTime) {
  const auto pacer = make_open_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin}, .slots = 1}, uniform(10));
  ASSERT_TRUE(pacer->next(kPaceBegin));
  EXPECT_FALSE(pacer->wake_at());  // only a free slot can help
  EXPECT_FALSE(pacer->next(kPaceBegin + 150ms));
  pacer->slot_free(kPaceBegin + 250ms, false);
  const auto second = pacer->next(kPaceBegin + 251ms);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->intended, kPaceBegin + 100ms);
  EXPECT_TRUE(second->waited_for_slot);
  pacer->slot_free(kPaceBegin + 252ms, false);
  const auto third = pacer->next(kPaceBegin + 253ms);
  ASSERT_TRUE(third);
  EXPECT_EQ(third->intended, kPaceBegin + 200ms);
  EXPECT_TRUE(third->waited_for_slot);
  // The slot is free before the next is due: if that goes out late, it did not wait for a slot.
  pacer->slot_free(kPaceBegin + 260ms, false);
  const auto fourth = pacer->next(kPaceBegin + 390ms);
  ASSERT_TRUE(fourth);
  EXPECT_FALSE(fourth->waited_for_slot);
}

TEST(ClosedPacerTest, EachSlotBeginsItsNextWhenTheLastEnded) {
  std::atomic<std::uint64_t> next_session{0};
  const auto pacer = make_closed_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin}, .slots = 3}, next_session);
  EXPECT_EQ(take_all(*pacer, kPaceBegin), (std::vector<std::uint64_t>{0, 1, 2}));
  EXPECT_FALSE(pacer->wake_at());
  pacer->slot_free(kPaceBegin + 7ms, false);
  const auto start = pacer->next(kPaceBegin + 8ms);
  ASSERT_TRUE(start);
  EXPECT_EQ(start->session, 3U);
  EXPECT_EQ(start->intended, kPaceBegin + 8ms);
  EXPECT_FALSE(pacer->next(kPaceBegin + 8ms));
}

TEST(ClosedPacerTest, ASlotRestsAfterAFailure) {
  std::atomic<std::uint64_t> next_session{0};
  const auto pacer = make_closed_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin}, .slots = 1}, next_session);
  ASSERT_TRUE(pacer->next(kPaceBegin));
  pacer->slot_free(kPaceBegin, true);
  EXPECT_FALSE(pacer->next(kPaceBegin));
  ASSERT_EQ(pacer->wake_at(), kPaceBegin + kRestAfterFailure);
  EXPECT_TRUE(pacer->next(kPaceBegin + kRestAfterFailure));
}

TEST(ClosedPacerTest, StopsAtTheEndOfTheWindow) {
  std::atomic<std::uint64_t> next_session{0};
  const auto pacer = make_closed_pacer(
      {.window = {.begin = kPaceBegin, .from = kPaceBegin, .until = kPaceBegin + 1s}, .slots = 1},
      next_session);
  ASSERT_TRUE(pacer->next(kPaceBegin + 999ms));
  EXPECT_FALSE(pacer->closed());
  pacer->slot_free(kPaceBegin + 2s, false);
  EXPECT_FALSE(pacer->next(kPaceBegin + 2s));
  EXPECT_TRUE(pacer->closed());
}

TEST(PacerTest, ClosedMeansNothingBegins) {
  std::atomic<std::uint64_t> next_session{0};
  const Window window{.begin = kPaceBegin, .from = kPaceBegin};
  for (const auto& pacer : {make_open_pacer({.window = window, .slots = 2}, uniform(1)),
                            make_closed_pacer({.window = window, .slots = 2}, next_session)}) {
    pacer->close();
    EXPECT_TRUE(pacer->closed());
    EXPECT_FALSE(pacer->next(kPaceBegin + 1h));
    EXPECT_FALSE(pacer->wake_at());
  }
}

}  // namespace
}  // namespace penstock::cli::load
