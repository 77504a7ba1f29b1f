#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>

#include "tiers/decision.h"
#include "tiers/key.h"
#include "tiers/store.h"

namespace penstock::engine {

/// What lies in the lower tiers of a worker in another process, as far as it has told, and what
/// loading from there costs. Nobody waits for it long, however much there is. Thread: any.
class TierPicture final {
 public:
  static constexpr std::uint64_t kBlockBytes = 64;  // memory of a block at most, tables included

  explicit TierPicture(std::uint64_t bytes_max) noexcept : blocks_max_(bytes_max / kBlockBytes) {}

  /// False: there is no room for so many.
  bool take(const tiers::Store::Follower::News& news);
  void clear();
  void take(const tiers::LoadCosts& costs);

  /// As Engine::foresee_load.
  [[nodiscard]] tiers::LoadChoice foresee(std::span<const tiers::Key> keys, std::size_t have) const;
  [[nodiscard]] std::uint64_t blocks() const;
  [[nodiscard]] std::uint64_t blocks_max() const noexcept { return blocks_max_; }

 private:
  /// By BlockPlace::key_low, in many tables: one of a million blocks takes a tenth of a second to
  /// grow.
  using Table = std::unordered_map<std::uint64_t, tiers::Tier>;
  static constexpr std::size_t kTables = 256;
  using Tables = std::array<Table, kTables>;
  [[nodiscard]] static std::size_t table_of(std::uint64_t key_low) noexcept {
    return key_low % kTables;
  }
  bool take_some(std::span<const tiers::BlockPlace> places);

  const std::uint64_t blocks_max_;
  mutable std::mutex mutex_;
  Tables tables_;
  std::uint64_t blocks_ = 0;
  tiers::LoadCosts costs_;
};

}  // namespace penstock::engine
