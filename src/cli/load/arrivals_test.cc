#include "cli/load/arrivals.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;

std::vector<Nanos> draw(Arrivals& arrivals, std::size_t count) {
  std::vector<Nanos> times;
  for (std::size_t i = 0; i < count; ++i) {
    const std::optional<Nanos> at = arrivals.next();
    if (!at) break;
    times.push_back(*at);
  }
  return times;
}

std::vector<Nanos> poisson(double rate_per_s, std::uint64_t seed, std::size_t count) {
  return draw(*make_rate_arrivals(rate_per_s, Spacing::kPoisson, seed), count);
}

TEST(ArrivalsTest, UniformGapsAddUpWithoutDrift) {
  const auto times = draw(*make_rate_arrivals(3, Spacing::kUniform, 0), 3001);
  EXPECT_EQ(times[0], 0s);
  EXPECT_EQ(times[3], 1s);
  EXPECT_EQ(times[3000], 1000s);
}

TEST(ArrivalsTest, PoissonIsTheSameForASeedAndAnotherForAnother) {
  EXPECT_EQ(poisson(10, 1, 1000), poisson(10, 1, 1000));
  EXPECT_NE(poisson(10, 1, 1000), poisson(10, 2, 1000));
  EXPECT_EQ(poisson(10, 1, 1).front(), 0s);
}

TEST(ArrivalsTest, PoissonGapsHaveTheMeanAndSpreadOfTheExponential) {
  constexpr std::size_t kCount = 100'000;
  const auto times = poisson(50, 4, kCount + 1);
  const double mean_s = std::chrono::duration<double>(times.back()).count() / kCount;
  double squares = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_GE(times[i + 1], times[i]);
    const double gap_s = std::chrono::duration<double>(times[i + 1] - times[i]).count();
    squares += (gap_s - mean_s) * (gap_s - mean_s);
  }
  EXPECT_NEAR(mean_s, 1.0 / 50, 0.01 / 50);
  EXPECT_NEAR(std::sqrt(squares / kCount) / mean_s, 1.0, 0.02);
}

TEST(ArrivalsTest, ATinyRateDoesNotOverflow) {
  for (const Spacing spacing : {Spacing::kPoisson, Spacing::kUniform}) {
    const auto times = draw(*make_rate_arrivals(1e-300, spacing, 1), 3);
    EXPECT_EQ(times[0], 0s);
    EXPECT_GT(times[2], 24h);
  }
}

TEST(ArrivalsTest, TraceTimesAreDividedBySpeed) {
  const std::vector<TraceRequest> trace = {{.at = 0s}, {.at = 3s}, {.at = 8s}};
  EXPECT_EQ(draw(*make_trace_arrivals(trace, 2), 9), (std::vector<Nanos>{0s, 1500ms, 4s}));
}

}  // namespace
}  // namespace penstock::cli::load
