#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>

#include "tiers/decision.h"
#include "tiers/key.h"
#include "tiers/store.h"

namespace penstock::engine {

/// What lies in the lower tiers of a worker in another process, as far as it has told, and what
/// loading from there costs. Thread: any.
class TierPicture final {
 public:
  static constexpr std::uint64_t kBlockBytes = 64;  // memory of a block at most, tables included

  explicit TierPicture(std::uint64_t bytes_max) noexcept : blocks_max_(bytes_max / kBlockBytes) {}

  /// False: there is no room for so many. It is empty then.
  bool take(const tiers::Store::Follower::News& news);
  void take(const tiers::LoadCosts& costs);

  /// As Engine::foresee_load.
  [[nodiscard]] tiers::LoadChoice foresee(std::span<const tiers::Key> keys, std::size_t have) const;
  [[nodiscard]] tiers::LoadCosts costs() const;
  [[nodiscard]] std::uint64_t blocks() const;
  [[nodiscard]] std::uint64_t blocks_max() const noexcept { return blocks_max_; }

 private:
  const std::uint64_t blocks_max_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, tiers::Tier> tier_of_;  // by BlockPlace::key_low
  tiers::LoadCosts costs_;
};

}  // namespace penstock::engine
