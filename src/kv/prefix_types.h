#pragma once

#include <compare>
#include <cstdint>

namespace penstock::kv {

/// The dense number, from 0, that the fleet gives to one (worker, data-parallel rank).
using Slot = std::uint32_t;

/// Where a worker keeps a block; a slot may hold one block in several.
enum class Tier : std::uint8_t { kDevice, kHost, kDisk };
inline constexpr unsigned kTiers = 3;

/// A set of tiers: a block counts when the slot holds it in any of them.
using TierSet = std::uint8_t;
[[nodiscard]] constexpr TierSet tier_set(Tier tier) {
  return static_cast<TierSet>(1U << static_cast<unsigned>(tier));
}
inline constexpr TierSet kDeviceOnly = tier_set(Tier::kDevice);
inline constexpr TierSet kDeviceAndHost = kDeviceOnly | tier_set(Tier::kHost);
inline constexpr TierSet kAllTiers = kDeviceAndHost | tier_set(Tier::kDisk);

/// A block as an engine's event tells of it.
struct StoredBlock {
  /// The engine's name for the block (and for what comes before it): how removals and children
  /// refer to it. Opaque. While a slot holds blocks their names are distinct within the slot; two
  /// slots may give one name to different blocks, or different names to one block.
  std::uint64_t alias;
  /// Hash of the block's own tokens wherever they stand (kv/local_hash.h). The chain of these from
  /// the root is the identity of a block.
  std::uint64_t local;
};

/// How far a slot's events are in, as the caller counts them: an instance of its engine and a
/// sequence number within. (0, 0): unknown.
struct EventPosition {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
  friend constexpr auto operator<=>(const EventPosition&, const EventPosition&) = default;
};

}  // namespace penstock::kv
