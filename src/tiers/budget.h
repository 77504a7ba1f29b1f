#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace penstock::tiers {

/// Bytes that may be written a day, so that a disk lives as long as it was bought for: a bucket of
/// one day that fills evenly. Not thread safe.
class WearBudget final {
 public:
  /// `spent_bytes`: what spent_bytes() was at `at`. 0 bytes a day: no limit.
  WearBudget(std::uint64_t bytes_per_day, std::uint64_t spent_bytes, TimePoint at) noexcept
      : per_day_(static_cast<double>(bytes_per_day)),
        left_(per_day_ - static_cast<double>(std::min(spent_bytes, bytes_per_day))),
        at_(at) {}

  [[nodiscard]] bool allows(std::uint64_t bytes, TimePoint now) noexcept {
    refill(now);
    return per_day_ == 0 || left_ >= static_cast<double>(bytes);
  }
  /// More than half is spent: only what was asked for more than once is worth a write.
  [[nodiscard]] bool is_short(TimePoint now) noexcept {
    refill(now);
    return per_day_ > 0 && left_ < per_day_ / 2;
  }
  void spend(std::uint64_t bytes, TimePoint now) noexcept {
    refill(now);
    left_ -= static_cast<double>(bytes);
  }
  /// What the bucket lacks; 0 without a limit.
  [[nodiscard]] std::uint64_t spent_bytes(TimePoint now) noexcept {
    refill(now);
    return per_day_ > 0 ? static_cast<std::uint64_t>(per_day_ - left_) : 0;
  }

 private:
  void refill(TimePoint now) noexcept {
    const std::chrono::duration<double> since = now - at_;
    left_ = std::min(per_day_, left_ + per_day_ * since.count() / 86400);
    at_ = now;
  }

  double per_day_;
  double left_;
  TimePoint at_;
};

/// Keeps away from what fails: after kFailuresMax failures in a row nobody tries for a
/// second, and twice as long after each further one, up to a minute. Not thread safe.
class Breaker final {
 public:
  static constexpr std::uint32_t kFailuresMax = 3;

  [[nodiscard]] bool allows(TimePoint now) const noexcept { return now >= tries_from_; }
  void succeeded() noexcept {
    failures_ = 0;
    pause_ = kPauseMin;
  }
  void failed(TimePoint now) noexcept {
    if (++failures_ < kFailuresMax) return;
    tries_from_ = now + pause_;
    pause_ = std::min<Nanos>(2 * pause_, kPauseMax);
  }

 private:
  static constexpr Nanos kPauseMin = std::chrono::seconds(1);
  static constexpr Nanos kPauseMax = std::chrono::minutes(1);

  std::uint32_t failures_ = 0;
  Nanos pause_ = kPauseMin;
  TimePoint tries_from_ = TimePoint::min();
};

}  // namespace penstock::tiers
