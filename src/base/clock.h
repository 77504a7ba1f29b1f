#pragma once

#include <chrono>
#include <cmath>

namespace penstock {

using TimePoint = std::chrono::steady_clock::time_point;
using Nanos = std::chrono::nanoseconds;

/// Where time comes from. Everything that waits or measures takes a Clock, so that tests and the
/// simulator can move it by hand. Thread: any.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual TimePoint now() const noexcept = 0;
};

/// The machine's monotonic clock.
class SteadyClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
};

/// A clock that stands still until moved. Not thread safe.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const noexcept override { return now_; }
  void advance(Nanos by) noexcept { now_ += by; }

 private:
  TimePoint now_{};
};

/// The moment after which nobody wants the answer any more. A value.
class Deadline final {
 public:
  constexpr Deadline() noexcept = default;  // never
  constexpr explicit Deadline(TimePoint at) noexcept : at_(at) {}

  [[nodiscard]] constexpr TimePoint at() const noexcept { return at_; }
  [[nodiscard]] constexpr bool passed(TimePoint now) const noexcept { return now >= at_; }

 private:
  TimePoint at_ = TimePoint::max();
};

[[nodiscard]] inline double to_seconds(Nanos d) noexcept {
  return std::chrono::duration<double>(d).count();
}
/// To the nearest nanosecond. Within what Nanos holds, some 290 years: the caller sees to it.
[[nodiscard]] inline Nanos from_seconds(double s) noexcept { return Nanos(std::llround(s * 1e9)); }

[[nodiscard]] inline double to_ms(Nanos d) noexcept {
  return std::chrono::duration<double, std::milli>(d).count();
}

}  // namespace penstock
