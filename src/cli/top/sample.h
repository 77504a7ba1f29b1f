#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace penstock::cli::top {

/// One worker, as /debug/workers shows it.
struct WorkerSample {
  std::uint64_t worker = 0;
  std::string state;
  std::string role;
  std::string trust;
  std::string address;  // of a worker of another process
  std::string doubt;    // why its cache's picture is degraded; or empty
  std::uint64_t requests = 0;
  std::uint64_t running = 0;
  std::uint64_t waiting = 0;
  std::uint64_t prefill_tokens_left = 0;
  std::uint64_t kv_blocks = 0;  // reusable
  std::uint64_t kv_blocks_max = 0;
  std::uint64_t kv_blocks_active = 0;  // in use by running requests
  std::uint64_t kv_blocks_active_max = 0;
  std::uint64_t prompt_tokens = 0;  // totals since its start
  std::uint64_t cached_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t forecasts = 0;
  std::uint64_t forecasts_equal = 0;
  std::uint64_t errors = 0;
  std::uint64_t kv_leases = 0;          // prompts kept for other workers, now
  std::uint64_t kv_blocks_fetched = 0;  // from other workers
  std::uint64_t kv_bytes_fetched = 0;
  std::uint64_t kv_blocks_missed = 0;  // were to be had there, and were computed
  std::uint64_t kv_fetch_ms = 0;
};

/// A Prometheus histogram: how many values were at most each bound, since the server's start.
struct HistogramSample {
  struct Bucket {
    double bound_s = 0;  // infinity in the last
    double count = 0;    // cumulative
  };
  std::vector<Bucket> buckets;

  /// The values that came between `before` and this. An empty `before` takes away nothing.
  [[nodiscard]] HistogramSample since(const HistogramSample& before) const;
  [[nodiscard]] double count() const { return buckets.empty() ? 0 : buckets.back().count; }
  /// Interpolated within its bucket, in ms; negative when there are no values.
  [[nodiscard]] double quantile_ms(double q) const;
};

/// What a server said of itself at one moment.
struct Sample {
  TimePoint at{};
  std::string model;
  std::string policy;
  std::vector<WorkerSample> workers;
  double in_flight = 0;
  double requests = 0;           // answered since start, whatever the status
  double completion_tokens = 0;  // answered since start
  double shed = 0;
  double split = 0;  // since start: prompts given to another worker than the answer
  HistogramSample ttft;
  HistogramSample gap;  // between two tokens
};

/// `workers`: the body of /debug/workers; `metrics`: of /metrics. What is missing is zero. Fails
/// with kInvalidArgument when `workers` is not what /debug/workers answers.
Result<Sample> read_sample(std::string_view workers, std::string_view metrics, TimePoint at);

}  // namespace penstock::cli::top
