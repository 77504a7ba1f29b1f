#include "base/clock.h"

#include <gtest/gtest.h>

#include <chrono>

namespace penstock {
namespace {

using namespace std::chrono_literals;

TEST(Clock, AManualClockMovesOnlyWhenTold) {
  ManualClock clock;
  const TimePoint start = clock.now();
  EXPECT_EQ(clock.now(), start);
  clock.advance(5ms);
  EXPECT_EQ(clock.now() - start, 5ms);
  clock.advance(1ns);
  EXPECT_EQ(clock.now() - start, 5ms + 1ns);
}

TEST(Clock, SecondsBecomeTheNearestNanosecondAndComeBack) {
  EXPECT_EQ(from_seconds(0.3), 300ms);  // a little less than 0.3, as a double
  EXPECT_EQ(from_seconds(-1.5), -1500ms);
  EXPECT_EQ(from_seconds(3e9), 3'000'000'000s);
  EXPECT_EQ(to_seconds(1500ms), 1.5);
}

TEST(Clock, TheSteadyClockNeverGoesBack) {
  const SteadyClock clock;
  TimePoint last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const TimePoint now = clock.now();
    EXPECT_GE(now, last);
    last = now;
  }
}

TEST(Deadline, PassesAtItsMoment) {
  ManualClock clock;
  const Deadline deadline(clock.now() + 10ms);
  EXPECT_EQ(deadline.at(), clock.now() + 10ms);
  EXPECT_FALSE(deadline.passed(clock.now()));
  clock.advance(10ms - 1ns);
  EXPECT_FALSE(deadline.passed(clock.now()));
  clock.advance(1ns);
  EXPECT_TRUE(deadline.passed(clock.now()));
  clock.advance(1h);
  EXPECT_TRUE(deadline.passed(clock.now()));
}

TEST(Deadline, NeverIsLaterThanAnyTime) {
  constexpr Deadline kNever;
  ManualClock clock;
  clock.advance(std::chrono::hours(24 * 365 * 200));
  EXPECT_FALSE(kNever.passed(clock.now()));
}

TEST(Clock, MillisecondsKeepTheirFraction) {
  EXPECT_DOUBLE_EQ(to_ms(1500us), 1.5);
  EXPECT_DOUBLE_EQ(to_ms(-2ms), -2.0);
  EXPECT_DOUBLE_EQ(to_ms(1ns), 1e-6);
}

}  // namespace
}  // namespace penstock
