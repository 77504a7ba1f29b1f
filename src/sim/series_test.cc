#include "sim/series.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/rng.h"

namespace penstock::sim {
namespace {

double sum(const TimeStrip& strip) {
  return std::accumulate(strip.buckets().begin(), strip.buckets().end(), 0.0);
}

TEST(TimeStrip, LosesNothingHoweverFarTimeGoes) {
  Rng rng(1);
  TimeStrip strip;
  double total = 0;
  for (int i = 0; i < 2000; ++i) {
    const Nanos begin(static_cast<std::int64_t>(rng.below(1U << 30)) * (1 + i));
    const Nanos length(static_cast<std::int64_t>(rng.below(1U << 31)) * rng.below(5));
    strip.add(begin, begin + length, i % 7);
    total += i % 7;
  }
  EXPECT_NEAR(sum(strip), total, 1e-6 * total);
}

TEST(TimeStrip, PutsAmountsWhereTheyBelong) {
  TimeStrip strip;
  const Nanos w = strip.width();
  strip.add(w / 2, w * 2 + w / 2, 4);
  strip.add(w, w, 1);
  EXPECT_NEAR(strip.buckets()[0], 1, 1e-9);
  EXPECT_NEAR(strip.buckets()[1], 3, 1e-9);
  EXPECT_NEAR(strip.buckets()[2], 1, 1e-9);
  strip.cover(w * 257);  // pairs become one
  EXPECT_EQ(strip.width(), 2 * w);
  EXPECT_NEAR(strip.buckets()[0], 4, 1e-9);
  EXPECT_NEAR(strip.buckets()[1], 1, 1e-9);
  EXPECT_EQ(strip.buckets()[2], 0);
}

}  // namespace
}  // namespace penstock::sim
