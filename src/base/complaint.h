#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/clock.h"

namespace penstock {

/// A line of the log about what goes wrong again and again: at once, when it goes wrong another way
/// than the last time, and else once a minute. Not thread safe.
class Complaint final {
 public:
  /// Whether to say it now, and then how often it was raised since it was said, this time included.
  /// `what`: goes wrong; of no meaning where it is always the same.
  [[nodiscard]] std::optional<std::uint64_t> raise(TimePoint now, std::string_view what = {}) {
    ++count_;
    if (now < silent_until_ && what == what_) return std::nullopt;
    silent_until_ = now + std::chrono::minutes(1);
    what_ = what;
    return std::exchange(count_, 0);
  }

 private:
  std::uint64_t count_ = 0;
  std::string what_;
  TimePoint silent_until_ = TimePoint::min();
};

}  // namespace penstock
