#pragma once

#include <array>

#include "base/clock.h"
#include "fleet/fleet_view.h"

namespace penstock::router {

/// How long one worker's passes take, fitted to those it reports: recursive least squares over
/// [prefill? 1, t, t^2] and [decode? 1, u, u^2], t the new prompt tokens and u the use of the KV
/// pool, from priors that hold until the worker has shown otherwise. Old passes are forgotten
/// slowly, so that a worker that changes is followed. A value; not thread safe.
class TimeModel final {
 public:
  /// `is_rough`: the prior's cost of a prompt token may be off by a few times itself.
  explicit TimeModel(const fleet::PassCost& prior = {}, bool is_rough = false);

  [[nodiscard]] bool observed() const noexcept { return observed_; }
  [[nodiscard]] bool is_rough() const noexcept { return is_rough_; }
  /// A pass has taken so long. Most passes that only decode are passed over: they are many and
  /// alike.
  void observe(const fleet::PassWork& pass, Nanos took) noexcept;

  /// Of a rough prior no term of prefill is less than nothing.
  [[nodiscard]] fleet::PassCost cost() const noexcept;

 private:
  static constexpr std::size_t kTerms = 6;
  using Vector = std::array<double, kTerms>;

  [[nodiscard]] double noise(double took_ms) const noexcept;

  Vector weights_;
  Vector variance_max_{};
  std::array<Vector, kTerms> covariance_;
  std::uint32_t decode_passes_ = 0;
  bool observed_ = false;
  bool is_rough_ = false;
};

}  // namespace penstock::router
