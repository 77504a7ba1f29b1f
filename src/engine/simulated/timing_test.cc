#include "engine/simulated/timing.h"

#include <gtest/gtest.h>

#include <limits>

namespace penstock::engine::simulated {
namespace {

TEST(PolynomialClock, FollowsItsFormulas) {
  const PolynomialClock clock;
  EXPECT_EQ(clock.prefill_ms(0), 0);
  EXPECT_NEAR(clock.prefill_ms(8192), 169.1369, 0.0001);
  EXPECT_NEAR(clock.prefill_ms(1), 16.5166, 0.0001);
  EXPECT_NEAR(clock.decode_ms(0), 5.74, 1e-12);
  EXPECT_NEAR(clock.decode_ms(0.5), 26.31, 1e-9);
  EXPECT_NEAR(clock.decode_ms(1), 34.01, 1e-9);
}

TEST(PolynomialClock, NeverDecodesFasterThanItsFloor) {
  PolynomialClock clock;
  clock.decode_constant_ms = 0.25;
  EXPECT_EQ(clock.decode_ms(0), 1);
}

TEST(PassTime, RoundsToNanosecondsBeforeAndAfterTheSpeedup) {
  EXPECT_EQ(pass_time(1.0, 1), Nanos(1'000'000));
  EXPECT_EQ(pass_time(0.0000014, 1), Nanos(1));
  EXPECT_EQ(pass_time(0.0000016, 1), Nanos(2));
  EXPECT_EQ(pass_time(0.0000014, 0.1), Nanos(10));  // not 14: the first rounding counts
  EXPECT_EQ(pass_time(10, 4), Nanos(2'500'000));
  EXPECT_EQ(pass_time(10, std::numeric_limits<double>::infinity()), Nanos(0));
}

}  // namespace
}  // namespace penstock::engine::simulated
