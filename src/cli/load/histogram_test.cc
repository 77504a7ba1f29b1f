#include "cli/load/histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/rng.h"

namespace penstock::cli::load {
namespace {

/// Of all magnitudes alike, from nothing to hours.
std::vector<Nanos> many_values(std::size_t count, std::uint64_t seed) {
  Rng random(seed);
  std::vector<Nanos> values;
  for (std::size_t i = 0; i < count; ++i) {
    values.emplace_back(static_cast<Nanos::rep>(std::exp2(random.fraction() * 45) - 1));
  }
  return values;
}

Nanos nearest_rank(std::vector<Nanos> values, double percent) {
  std::ranges::sort(values);
  const auto rank =
      static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
  return values[std::max<std::size_t>(rank, 1) - 1];
}

Histogram of(const std::vector<Nanos>& values) {
  Histogram histogram;
  for (const Nanos value : values) histogram.record(value);
  return histogram;
}

TEST(HistogramTest, PercentilesAreNearestRankToATenthOfAPercent) {
  for (const std::size_t count : {1, 2, 3, 10, 99, 100, 101, 5000}) {
    const std::vector<Nanos> values = many_values(count, count);
    const Histogram histogram = of(values);
    for (const double percent : {0.0, 0.1, 1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0}) {
      const Nanos exact = nearest_rank(values, percent);
      EXPECT_GE(histogram.percentile(percent), exact) << count << " values, p" << percent;
      EXPECT_LE(histogram.percentile(percent), exact + exact / 1024)
          << count << " values, p" << percent;
    }
  }
}

TEST(HistogramTest, SmallValuesAreExact) {
  std::vector<Nanos> values;
  for (int i = 1; i <= 200; ++i) values.emplace_back(i);
  const Histogram histogram = of(values);
  EXPECT_EQ(histogram.percentile(50), Nanos(100));
  EXPECT_EQ(histogram.percentile(99), Nanos(198));
  EXPECT_EQ(histogram.percentile(99.1), Nanos(199));
  EXPECT_EQ(histogram.percentile(100), Nanos(200));
}

TEST(HistogramTest, CountMeanAndMaximumAreExact) {
  const std::vector<Nanos> values = many_values(1000, 7);
  const Histogram histogram = of(values);
  EXPECT_EQ(histogram.count(), 1000U);
  EXPECT_EQ(histogram.max(), std::ranges::max(values));
  EXPECT_EQ(histogram.mean(), std::accumulate(values.begin(), values.end(), Nanos()) / 1000);
}

TEST(HistogramTest, MergedIsAsIfRecordedInOne) {
  const std::vector<Nanos> values = many_values(3001, 3);
  const auto middle = values.begin() + 1000;
  Histogram merged = of({values.begin(), middle});
  merged.merge(of({middle, values.end()}));
  const Histogram whole = of(values);
  EXPECT_EQ(merged.count(), whole.count());
  EXPECT_EQ(merged.mean(), whole.mean());
  EXPECT_EQ(merged.max(), whole.max());
  for (int percent = 0; percent <= 100; ++percent) {
    EXPECT_EQ(merged.percentile(percent), whole.percentile(percent)) << percent;
  }
}

TEST(HistogramTest, EmptyAndOutOfRange) {
  Histogram histogram;
  EXPECT_EQ(histogram.percentile(99), Nanos::zero());
  EXPECT_EQ(histogram.mean(), Nanos::zero());
  histogram.record(Nanos(-5));
  EXPECT_EQ(histogram.max(), Nanos::zero());
  const Nanos days = std::chrono::hours(100);
  histogram.record(days);
  EXPECT_EQ(histogram.max(), days);
  EXPECT_EQ(histogram.percentile(50), Nanos::zero());
  EXPECT_EQ(histogram.percentile(100), Histogram::kMax);
}

}  // namespace
}  // namespace penstock::cli::load
