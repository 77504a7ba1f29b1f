#include "engine/simulated/timing.h"

#include <algorithm>
#include <cmath>

namespace penstock::engine::simulated {

double PolynomialClock::prefill_ms(double tokens) const noexcept {
  if (tokens <= 0) return 0;
  return (prefill_quadratic_ms * tokens + prefill_linear_ms) * tokens + prefill_constant_ms;
}

double PolynomialClock::decode_ms(double kv_use) const noexcept {
  const double ms = (decode_quadratic_ms * kv_use + decode_linear_ms) * kv_use + decode_constant_ms;
  return std::max(decode_min_ms, ms);
}

Nanos pass_time(double ms, double speedup) noexcept {
  constexpr double kNanosPerMs = 1e6;
  const auto nanos = std::llround(ms * kNanosPerMs);
  return Nanos(std::llround(static_cast<double>(nanos) / speedup));
}

}  // namespace penstock::engine::simulated
