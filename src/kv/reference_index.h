#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "kv/prefix_types.h"

namespace penstock::kv {

/// What PrefixIndex must answer, as plain maps say it: the oracle of tests and of the simulator's
/// checkers. No budget, no limits, slow. Not thread safe.
class ReferenceIndex {
 public:
  bool stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent,
              std::span<const StoredBlock> blocks);
  void removed(Slot slot, Tier tier, std::span<const std::uint64_t> aliases);
  void cleared(Slot slot);

  [[nodiscard]] std::uint32_t depth(Slot slot, std::span<const std::uint64_t> locals,
                                    TierSet tiers = kDeviceOnly) const;
  [[nodiscard]] std::uint64_t parent_unknown() const { return parent_unknown_; }
  [[nodiscard]] std::uint64_t unknown_removals() const { return unknown_removals_; }

 private:
  using Node = std::uint64_t;  // a block with all before it; 0: the root
  struct Held {
    std::uint64_t alias = 0;
    TierSet tiers = 0;
  };
  struct SlotState {
    std::map<std::uint64_t, Node> by_alias;
    std::map<Node, Held> held;
  };

  Node child(Node parent, std::uint64_t local);

  std::map<std::pair<Node, std::uint64_t>, Node> children_;
  std::map<Slot, SlotState> slots_;
  std::uint64_t parent_unknown_ = 0;
  std::uint64_t unknown_removals_ = 0;
};

}  // namespace penstock::kv
