#pragma once

#include "base/clock.h"

namespace penstock::engine::simulated {

/// How long the two parts of a pass take, as polynomials: the default clock of Dynamo's mocker
/// 1.4.2. A value; other coefficients give another machine.
struct PolynomialClock {
  double prefill_quadratic_ms = 4.209989e-07;
  double prefill_linear_ms = 1.518344e-02;
  double prefill_constant_ms = 16.50142;
  double decode_quadratic_ms = -25.74;
  double decode_linear_ms = 54.01;
  double decode_constant_ms = 5.74;
  double decode_min_ms = 1;

  /// Computing `tokens` new prompt tokens in one pass. 0 for 0.
  [[nodiscard]] double prefill_ms(double tokens) const noexcept;

  /// One decode step at `kv_use` in [0, 1], the share of the KV blocks in use. Batch size and
  /// context length do not enter.
  [[nodiscard]] double decode_ms(double kv_use) const noexcept;
};

/// Rounds to whole nanoseconds, then divides and rounds again: what a model says is one number,
/// and its speed-ups stay
/// comparable to the last digit. `ms` >= 0; `speedup` > 0, infinity gives 0.
[[nodiscard]] Nanos pass_time(double ms, double speedup) noexcept;

}  // namespace penstock::engine::simulated
