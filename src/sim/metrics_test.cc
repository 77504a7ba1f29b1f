#include "sim/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace penstock::sim {
namespace {

TEST(LatencyOf, TakesTheNearestRank) {
  std::vector<double> values;
  for (int i = 200; i > 0; --i) values.push_back(i);
  const Latency l = latency_of(values);
  EXPECT_EQ(l.mean, 100.5);
  EXPECT_EQ(l.p50, 101);  // round(199 * 0.5) = 100, counted from 0
  EXPECT_EQ(l.p90, 180);
  EXPECT_EQ(l.p99, 198);
  std::vector<double> none;
  EXPECT_EQ(latency_of(none).p99, 0);
  std::vector<double> one = {7};
  EXPECT_EQ(latency_of(one).p99, 7);
}

TEST(GapHistogram, IsExactToOnePartInAThousand) {
  GapHistogram histogram;
  std::vector<double> values;
  Rng rng(5);
  for (int i = 0; i < 20'000; ++i) {
    const Nanos gap(static_cast<Nanos::rep>(std::exp(rng.fraction() * 25)));
    histogram.add(gap, 1);
    values.push_back(to_ms(gap));
  }
  const Latency exact = latency_of(values);
  const Latency ours = histogram.latency();
  EXPECT_EQ(histogram.count(), 20'000U);
  EXPECT_NEAR(ours.p50, exact.p50, exact.p50 * 1e-3);
  EXPECT_NEAR(ours.p90, exact.p90, exact.p90 * 1e-3);
  EXPECT_NEAR(ours.p99, exact.p99, exact.p99 * 1e-3);
  EXPECT_EQ(GapHistogram().latency().p99, 0);
}

TEST(GapHistogram, TakesAnyDuration) {
  GapHistogram histogram;
  for (const Nanos gap : {Nanos(0), Nanos(-5), Nanos(1), Nanos(1023), Nanos(1024), Nanos::max()}) {
    histogram.add(gap, 1);
  }
  EXPECT_EQ(histogram.count(), 6U);
}

}  // namespace
}  // namespace penstock::sim
