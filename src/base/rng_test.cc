#include "base/rng.h"

#include <gtest/gtest.h>

#include <vector>

namespace penstock {
namespace {

TEST(Rng, EqualSeedsGiveEqualNumbers) {
  Rng a(7);
  Rng b(7);
  Rng c(8);
  bool differs = false;
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t x = a.next();
    EXPECT_EQ(x, b.next());
    differs |= x != c.next();
  }
  EXPECT_TRUE(differs);
}

TEST(Rng, BelowIsEvenAndInRange) {
  Rng rng(1);
  std::vector<int> counts(7);
  for (int i = 0; i < 70'000; ++i) ++counts.at(rng.below(7));
  for (const int count : counts) EXPECT_NEAR(count, 10'000, 500);
  EXPECT_EQ(rng.below(1), 0U);
}

TEST(Rng, FractionAndExponentialHaveTheirMeans) {
  Rng rng(2);
  double fractions = 0;
  double gaps = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double f = rng.fraction();
    ASSERT_GE(f, 0);
    ASSERT_LT(f, 1);
    fractions += f;
    gaps += rng.exponential(20);
  }
  EXPECT_NEAR(fractions / 1e5, 0.5, 0.01);
  EXPECT_NEAR(gaps / 1e5, 20, 0.4);
}

}  // namespace
}  // namespace penstock
