#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::kv {

/// Which worker holds which prefix, kept in plain maps: what the prefix index is compared with in
/// tests. Same calls, same answers, no byte budget. A block is identified by its chain: its own
/// hash and those of all before it. Not thread safe.
class PrefixOracle final {
 public:
  PrefixOracle();

  /// `slot` now holds `blocks`, one behind the other, after the block it calls `parent_alias`
  /// (absent: they start a prompt). Storing again changes nothing. A parent that the slot does not
  /// hold makes the whole run unknown: it is left out and counted.
  void stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent_alias,
              std::span<const StoredBlock> blocks);
  /// `slot` no longer holds them in `tier`. Unknown ones are counted.
  void removed(Slot slot, Tier tier, std::span<const std::uint64_t> aliases);
  /// `slot` holds nothing any more.
  void cleared(Slot slot);

  /// In depths[s], how many leading blocks of the chain slot s holds (in any tier), without a gap.
  /// Slots past the span are passed over.
  void match(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths) const;

  /// Blocks that `slot` holds.
  [[nodiscard]] std::uint64_t held(Slot slot) const;
  [[nodiscard]] std::uint64_t parents_unknown() const noexcept { return parents_unknown_; }
  [[nodiscard]] std::uint64_t removals_unknown() const noexcept { return removals_unknown_; }

 private:
  using NodeId = std::uint32_t;
  static constexpr NodeId kRoot = 0;
  static constexpr NodeId kNone = 0xFFFFFFFF;

  struct Holder {
    Slot slot;
    std::uint8_t tiers;  // a bit a tier
  };
  struct Node {
    NodeId parent = kNone;
    std::uint64_t local = 0;
    std::uint32_t children = 0;
    std::vector<Holder> holders;
  };
  struct Link {
    NodeId parent;
    std::uint64_t local;
    friend bool operator==(const Link&, const Link&) = default;
  };
  struct LinkHash {
    std::size_t operator()(const Link& link) const noexcept;
  };

  [[nodiscard]] std::unordered_map<std::uint64_t, NodeId>& aliases_of(Slot slot);
  NodeId child_of(NodeId parent, std::uint64_t local);
  void hold(NodeId node, Slot slot, Tier tier);
  void let_go(NodeId node, Slot slot, std::uint8_t tiers);
  void reclaim(NodeId node);
  [[nodiscard]] const Holder* holder(NodeId node, Slot slot) const;

  std::vector<Node> nodes_;
  std::vector<NodeId> unused_;
  std::unordered_map<Link, NodeId, LinkHash> links_;
  std::vector<std::unordered_map<std::uint64_t, NodeId>> aliases_;  // by slot
  std::uint64_t parents_unknown_ = 0;
  std::uint64_t removals_unknown_ = 0;
};

}  // namespace penstock::kv
