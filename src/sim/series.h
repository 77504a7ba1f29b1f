#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/clock.h"

namespace penstock::sim {

/// Amounts over time, in at most kBuckets equal spans that grow as time goes on. Constant memory.
class TimeStrip final {
 public:
  static constexpr std::size_t kBuckets = 256;

  TimeStrip() : buckets_(kBuckets) {}

  /// Spreads `amount` evenly over [begin, end), 0 <= begin; all at `begin` if they are equal.
  void add(Nanos begin, Nanos end, double amount);
  /// Makes room up to `end`.
  void cover(Nanos end);

  [[nodiscard]] Nanos width() const noexcept { return width_; }
  [[nodiscard]] std::span<const double> buckets() const noexcept { return buckets_; }

 private:
  std::vector<double> buckets_;
  Nanos width_ = std::chrono::milliseconds(10);
};

/// What a run looked like, for plots.
struct Series {
  std::vector<double> ttft_ms;  // of completed requests, ascending
  std::vector<double> tpot_ms;
  double bucket_ms = 0;                   // of the rest: equal spans from the beginning of the run
  std::vector<double> waiting;            // requests without a first token, on average
  std::vector<double> running;            // requests between first and last token
  std::vector<double> tokens_per_s;       // output; a request's spread evenly, first to last
  std::vector<std::vector<double>> busy;  // by worker: share of the time in passes, [0, 1]
};

}  // namespace penstock::sim
