#include "cli/load/arrivals.h"

#include <cmath>

#include "base/rng.h"

namespace penstock::cli::load {
namespace {

/// A century, so that a tiny rate cannot overflow the clock.
constexpr double kOffsetMaxS = 3.15e9;

Nanos offset(double s) { return from_seconds(std::fmin(s, kOffsetMaxS)); }

class PoissonArrivals final : public Arrivals {
 public:
  PoissonArrivals(double rate_per_s, std::uint64_t seed) : rate_per_s_(rate_per_s), random_(seed) {}

  std::optional<Nanos> next() override {
    const Nanos at = offset(at_s_);
    at_s_ += random_.exponential(1 / rate_per_s_);
    return at;
  }

 private:
  const double rate_per_s_;
  Rng random_;
  double at_s_ = 0;
};

class UniformArrivals final : public Arrivals {
 public:
  explicit UniformArrivals(double rate_per_s) : rate_per_s_(rate_per_s) {}

  std::optional<Nanos> next() override {
    return offset(static_cast<double>(count_++) / rate_per_s_);
  }

 private:
  const double rate_per_s_;
  std::uint64_t count_ = 0;
};

class TraceArrivals final : public Arrivals {
 public:
  TraceArrivals(const std::vector<TraceRequest>& trace, double speed)
      : trace_(trace), speed_(speed) {}

  std::optional<Nanos> next() override {
    if (next_ == trace_.size()) return std::nullopt;
    return offset(to_seconds(trace_[next_++].at) / speed_);
  }

 private:
  const std::vector<TraceRequest>& trace_;
  const double speed_;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<Arrivals> make_rate_arrivals(double rate_per_s, Spacing spacing,
                                             std::uint64_t seed) {
  if (spacing == Spacing::kUniform) return std::make_unique<UniformArrivals>(rate_per_s);
  return std::make_unique<PoissonArrivals>(rate_per_s, seed);
}

std::unique_ptr<Arrivals> make_trace_arrivals(const std::vector<TraceRequest>& trace,
                                              double speed) {
  return std::make_unique<TraceArrivals>(trace, speed);
}

}  // namespace penstock::cli::load
