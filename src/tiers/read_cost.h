#pragma once

#include <algorithm>
#include <cmath>

#include "base/clock.h"

namespace penstock::tiers {

/// What reading a block from disk costs, as measured lately. What is thought slow is not read, so
/// nobody would see that it has become quick, or ever was: it counts as quick until it is measured,
/// and the longer ago it was slow, the less that counts. No thread of its own.
class ReadCost final {
 public:
  /// `quick_ns`: of a disk as quick as there are.
  explicit ReadCost(double quick_ns) noexcept : quick_ns_(quick_ns), ns_(quick_ns) {}

  [[nodiscard]] double ns(TimePoint now) const noexcept {
    const double age_s = to_ms(now - measured_at_) / 1e3;
    const double slower_ns = std::max(0.0, ns_ - quick_ns_);
    return ns_ - slower_ns * (1 - std::exp2(-age_s / kHalfForgottenS));
  }
  void measured(double ns, TimePoint now) noexcept {
    const double known_ns = this->ns(now);
    ns_ = known_ ? known_ns + kNewest * (ns - known_ns) : ns;
    known_ = true;
    measured_at_ = now;
  }

 private:
  static constexpr double kNewest = 0.2;  // weight of the newest measurement
  static constexpr double kHalfForgottenS = 60;

  const double quick_ns_;
  double ns_;  // at `measured_at_`
  bool known_ = false;
  TimePoint measured_at_;
};

}  // namespace penstock::tiers
