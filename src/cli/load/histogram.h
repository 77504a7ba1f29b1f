#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"

namespace penstock::cli::load {

/// Durations, counted in buckets that are at most 1/1024 of their value wide. So a percentile is
/// exact to 0.1 % while the memory stays the same (300 kB) however long the run. Count, mean and
/// maximum are exact. A value; not thread safe.
class Histogram final {
 public:
  Histogram();

  /// Below 0 counts as 0; above kMax (19 hours) as kMax, but for mean and maximum.
  void record(Nanos value);
  void merge(const Histogram& other);

  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] Nanos mean() const noexcept;  // 0 if there is none
  [[nodiscard]] Nanos max() const noexcept { return max_; }

  /// Nearest rank: the smallest recorded value with at least `percent` % of all values not above
  /// it, that is the value at place ceil(percent / 100 * count), from 1, of the sorted values.
  /// Reported as the upper end of its bucket, never above max(). 0 if there is none.
  [[nodiscard]] Nanos percentile(double percent) const;

  static constexpr Nanos kMax{(1LL << 46) - 1};

 private:
  std::vector<std::uint64_t> buckets_;
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
  Nanos max_{};
};

}  // namespace penstock::cli::load
