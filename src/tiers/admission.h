#pragma once

#include <cstdint>
#include <optional>

#include "tiers/stats.h"

namespace penstock::tiers {

/// A block that might go to disk.
struct DiskBid {
  double recompute_ns = 0;  // what computing it costs
  double read_ns = 0;       // what reading it would cost
  std::uint32_t asked = 0;  // how often it was asked for lately
  bool wear_spent = false;  // the day's writes are used up
  bool wear_short = false;  // half of them are
  bool full = false;        // blocks of the oldest segment would have to go for it:
  double oldest_value = 0;  // what keeping one of those is worth at the mean, see kept_value()

  [[nodiscard]] double value() const noexcept { return recompute_ns * asked; }
};

/// What keeping a block on disk is worth: the askings after the first, which is what brought it
/// there. So where blocks are hardly asked for again, new ones take the place of old ones.
[[nodiscard]] constexpr double kept_value(double recompute_ns, std::uint32_t asked) noexcept {
  return asked > 1 ? recompute_ns * (asked - 1) : 0;
}

/// Fame fades, also of what is on disk: after so many kCold the oldest segment is valued anew.
inline constexpr std::uint64_t kRefusalsAnUpdate = 64;

/// Why it is not worth writing; absent: it is. Pure: what the store does and what is simulated.
[[nodiscard]] std::optional<Reason> refusal(const DiskBid& bid) noexcept;

}  // namespace penstock::tiers
