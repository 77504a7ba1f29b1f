#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "sim/series.h"

namespace penstock::sim {

/// Of a set of durations, milliseconds. A percentile p of n values is the one at rank
/// round((n - 1) * p / 100) in ascending order, counted from 0. All 0 when there are none.
struct Latency {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
};

/// How many durations fell where: exact in number and sum, each value to 1 part in 1,000. Constant
/// memory (about 250 kB once used).
class GapHistogram final {
 public:
  GapHistogram();

  void add(Nanos gap, std::uint64_t times) noexcept {
    const std::uint64_t ns = gap.count() > 0 ? static_cast<std::uint64_t>(gap.count()) : 0;
    if (ns != last_ns_) {
      last_ns_ = ns;
      last_bucket_ = bucket_of(ns);
    }
    counts_[last_bucket_] += times;
  }
  [[nodiscard]] Latency latency() const;  // but for the mean, which the caller knows exactly
  [[nodiscard]] std::uint64_t count() const noexcept;

 private:
  static constexpr unsigned kMantissaBits = 10;
  static constexpr std::size_t kBuckets = (64 - kMantissaBits + 1) << kMantissaBits;

  [[nodiscard]] static std::size_t bucket_of(std::uint64_t ns) noexcept;
  [[nodiscard]] static double middle_ms(std::size_t bucket) noexcept;

  std::vector<std::uint64_t> counts_;
  std::uint64_t last_ns_ = 0;  // neighbours in a pass have the same gap
  std::size_t last_bucket_ = 0;
};

/// What became of one request.
struct Outcome {
  Nanos arrival{0};
  Nanos first{0};  // first and last token that the client sees
  Nanos last{0};
  std::uint32_t tokens = 0;
  std::uint32_t cached_tokens = 0;  // of the prompt, the most of any admission
  bool completed = false;
  bool failed = false;      // lost or late
  bool shed = false;        // no worker took requests
  std::uint32_t tries = 0;  // that came to nothing
  Nanos ended{0};           // in whatever way
};

/// What a good request keeps to: its TTFT, and its mean time between tokens.
struct Slo {
  double ttft_ms = 2000;
  double itl_ms = 25;
};

/// One run. Latencies and ratios are of completed requests; rates are per second up to the last
/// completion.
struct Report {
  std::string policy;
  std::uint64_t requests = 0;
  std::uint64_t completed = 0;
  std::uint64_t rejected = 0;  // no worker can ever run them
  std::uint64_t failed = 0;    // lost with a worker and not to be tried again, or late
  std::uint64_t shed = 0;      // no worker took requests when they came
  Latency ttft_ms;
  Latency itl_ms;   // all gaps between consecutive tokens, of all requests
  Latency tpot_ms;  // a request's (last - first) / (tokens - 1); of those with two tokens or more
  Latency e2e_ms;
  double prefix_hit_ratio = 0;  // cached prompt tokens / prompt tokens
  double requests_per_s = 0;
  double output_tokens_per_s = 0;
  double goodput_ratio = 0;  // good requests / all requests
  double imbalance = 0;    // busiest worker's computing time / the mean of its pool; the worst pool
  double duration_ms = 0;  // the last completion
  std::uint64_t input_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t passes = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t retries = 0;       // of requests lost with a worker
  std::uint64_t kv_replays = 0;    // that routers asked for, of workers' caches
  std::uint64_t kv_snapshots = 0;  // as well
  double host_hit_ratio = 0;       // of the cached, that came from host memory / prompt tokens
  double disk_hit_ratio = 0;       // or from disk
  std::uint64_t disk_bytes_written = 0;
  double disk_bytes_per_token = 0;  // of those, for each token of a prompt or an answer
  double predicted_hit_ratio = 0;   // what the router believed to be cached / prompt tokens
  Series series;                    // empty unless Setup::series
};

/// Sorts `values`.
[[nodiscard]] Latency latency_of(std::vector<double>& values);

}  // namespace penstock::sim
