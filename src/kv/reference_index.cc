#include "kv/reference_index.h"

namespace penstock::kv {

ReferenceIndex::Node ReferenceIndex::child(Node parent, std::uint64_t local) {
  return children_.try_emplace({parent, local}, children_.size() + 1).first->second;
}

bool ReferenceIndex::stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent,
                            std::span<const StoredBlock> blocks) {
  SlotState& state = slots_[slot];
  Node node = 0;
  if (parent) {
    const auto found = state.by_alias.find(*parent);
    if (found == state.by_alias.end()) {
      ++parent_unknown_;
      return false;
    }
    node = found->second;
  }
  for (const StoredBlock& block : blocks) {
    node = child(node, block.local);
    Held& held = state.held[node];
    if (held.tiers != 0 && held.alias != block.alias) state.by_alias.erase(held.alias);
    held.alias = block.alias;
    held.tiers |= tier_set(tier);
    state.by_alias[block.alias] = node;
  }
  return true;
}

void ReferenceIndex::removed(Slot slot, Tier tier, std::span<const std::uint64_t> aliases) {
  SlotState& state = slots_[slot];
  for (const std::uint64_t alias : aliases) {
    const auto found = state.by_alias.find(alias);
    if (found == state.by_alias.end() || (state.held[found->second].tiers & tier_set(tier)) == 0) {
      ++unknown_removals_;
      continue;
    }
    Held& held = state.held[found->second];
    held.tiers &= static_cast<TierSet>(~tier_set(tier));
    if (held.tiers != 0) continue;
    state.held.erase(found->second);
    state.by_alias.erase(found);
  }
}

void ReferenceIndex::cleared(Slot slot) { slots_.erase(slot); }

std::uint32_t ReferenceIndex::depth(Slot slot, std::span<const std::uint64_t> locals,
                                    TierSet tiers) const {
  const auto of = slots_.find(slot);
  if (of == slots_.end()) return 0;
  Node node = 0;
  std::uint32_t depth = 0;
  for (const std::uint64_t local : locals) {
    const auto next = children_.find({node, local});
    if (next == children_.end()) break;
    node = next->second;
    const auto held = of->second.held.find(node);
    if (held == of->second.held.end() || (held->second.tiers & tiers) == 0) break;
    ++depth;
  }
  return depth;
}

}  // namespace penstock::kv
