#include "sim/metrics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace penstock::sim {
namespace {

std::uint64_t rank_of(std::uint64_t count, double percent) {
  return static_cast<std::uint64_t>(std::llround(static_cast<double>(count - 1) * percent / 100.0));
}

}  // namespace

Latency latency_of(std::vector<double>& values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const auto at = [&](double percent) { return values[rank_of(values.size(), percent)]; };
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {.mean = sum / static_cast<double>(values.size()),
          .p50 = at(50),
          .p90 = at(90),
          .p99 = at(99)};
}

GapHistogram::GapHistogram() : counts_(kBuckets) {}

/// Numbers below 2^kMantissaBits have a bucket each; above, each power of two has as many.
std::size_t GapHistogram::bucket_of(std::uint64_t ns) noexcept {
  const unsigned width = static_cast<unsigned>(std::bit_width(ns));
  if (width <= kMantissaBits) return ns;
  const unsigned shift = width - kMantissaBits - 1;
  return ((std::size_t{shift} + 1) << kMantissaBits) + (ns >> shift) -
         (std::size_t{1} << kMantissaBits);
}

double GapHistogram::middle_ms(std::size_t bucket) noexcept {
  const std::size_t power = bucket >> kMantissaBits;
  const std::size_t rest = bucket & ((std::size_t{1} << kMantissaBits) - 1);
  if (power == 0) return static_cast<double>(rest) / 1e6;
  const double low = std::ldexp(static_cast<double>(rest + (std::size_t{1} << kMantissaBits)),
                                static_cast<int>(power) - 1);
  return (low + std::ldexp(0.5, static_cast<int>(power) - 1)) / 1e6;
}

std::uint64_t GapHistogram::count() const noexcept {
  return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t{0});
}

Latency GapHistogram::latency() const {
  const std::uint64_t total = count();
  if (total == 0) return {};
  const auto at = [&](double percent) {
    std::uint64_t left = rank_of(total, percent);
    for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
      if (left < counts_[bucket]) return middle_ms(bucket);
      left -= counts_[bucket];
    }
    return 0.0;
  };
  return {.mean = 0, .p50 = at(50), .p90 = at(90), .p99 = at(99)};
}

}  // namespace penstock::sim
