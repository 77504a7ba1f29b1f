#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "cli/load/trace.h"

namespace penstock::cli::load {

/// When sessions begin in an open loop, whatever the server does. Yields times after the start of
/// the run, never decreasing. Not thread safe; two made alike yield the same.
class Arrivals {
 public:
  virtual ~Arrivals() = default;
  virtual std::optional<Nanos> next() = 0;  // absent: there are no more
};

enum class Spacing : std::uint8_t { kPoisson, kUniform };

/// `rate_per_s` sessions a second without end; the first at once. Poisson: the gaps are independent
/// and exponential. Uniform: all gaps are alike, and no rounding adds up.
std::unique_ptr<Arrivals> make_rate_arrivals(double rate_per_s, Spacing spacing,
                                             std::uint64_t seed);

/// The times of `trace`, `speed` times as fast. `trace` must outlive it.
std::unique_ptr<Arrivals> make_trace_arrivals(const std::vector<TraceRequest>& trace, double speed);

}  // namespace penstock::cli::load
