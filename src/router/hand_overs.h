#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <unordered_map>

#include "base/clock.h"
#include "kv/prefix_types.h"

namespace penstock::router {

/// Between which workers KV did not come through lately: they are of different hosts, say, or one
/// of them hangs. Whoever answers then computes the prompt again, so after a few such misses in a
/// row no prompt is computed for that one there, for a while that doubles; one that comes through
/// ends it. A value; grows with the pairs that miss.
class HandOvers final {
 public:
  static constexpr std::uint32_t kMissesMax = 3;  // a busy machine may be late once or twice,
  static constexpr Nanos kMoment = std::chrono::seconds(1);  // with all that is under way then
  static constexpr Nanos kApartFirst = std::chrono::seconds(5);
  static constexpr Nanos kApartMax = std::chrono::minutes(5);

  /// KV that lay at `from` was there when the answer at `to` began, or it was not.
  void ended(kv::Slot from, kv::Slot to, bool well, TimePoint now) {
    if (well) {
      pairs_.erase(key(from, to));
      return;
    }
    Pair& pair = pairs_[key(from, to)];
    if (now < pair.until || now < pair.counts_from) return;
    pair.counts_from = now + kMoment;
    if (++pair.misses < kMissesMax) return;
    pair.pause = std::clamp(2 * pair.pause, kApartFirst, kApartMax);
    pair.until = now + pair.pause;
  }
  [[nodiscard]] bool any() const noexcept { return !pairs_.empty(); }
  [[nodiscard]] bool apart(kv::Slot from, kv::Slot to, TimePoint now) const noexcept {
    if (pairs_.empty()) return false;
    const auto found = pairs_.find(key(from, to));
    return found != pairs_.end() && now < found->second.until;
  }
  /// Another worker has the slot now.
  void forget(kv::Slot slot) {
    std::erase_if(pairs_, [slot](const auto& pair) {
      return pair.first >> 32 == slot || (pair.first & UINT32_MAX) == slot;
    });
  }

 private:
  struct Pair {
    std::uint32_t misses = 0;
    Nanos pause{0};
    TimePoint counts_from = TimePoint::min();  // misses, again
    TimePoint until = TimePoint::min();        // the two are apart
  };
  static constexpr std::uint64_t key(kv::Slot from, kv::Slot to) noexcept {
    return std::uint64_t{from} << 32 | to;
  }
  std::unordered_map<std::uint64_t, Pair> pairs_;
};

}  // namespace penstock::router
