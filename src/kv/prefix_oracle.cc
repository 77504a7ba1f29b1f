#include "kv/prefix_oracle.h"

#include <algorithm>

#include "base/rng.h"

namespace penstock::kv {

std::size_t PrefixOracle::LinkHash::operator()(const Link& link) const noexcept {
  return mix64(link.local + (std::uint64_t{link.parent} + 1) * 0x9e3779b97f4a7c15ULL);
}

PrefixOracle::PrefixOracle() : nodes_(1) {}

void PrefixOracle::stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent_alias,
                          std::span<const StoredBlock> blocks) {
  std::unordered_map<std::uint64_t, NodeId>& aliases = aliases_of(slot);
  NodeId node = kRoot;
  if (parent_alias) {
    const auto found = aliases.find(*parent_alias);
    if (found == aliases.end()) {
      ++parents_unknown_;
      return;
    }
    node = found->second;
  }
  for (const StoredBlock& block : blocks) {
    node = child_of(node, block.local);
    hold(node, slot, tier);
    const auto [entry, fresh] = aliases.try_emplace(block.alias, node);
    if (!fresh && entry->second != node) {  // the engine names something else so now
      const NodeId before = entry->second;
      entry->second = node;
      let_go(before, slot, 0xFF);
    }
  }
}

void PrefixOracle::removed(Slot slot, Tier tier, std::span<const std::uint64_t> names) {
  std::unordered_map<std::uint64_t, NodeId>& aliases = aliases_of(slot);
  for (const std::uint64_t name : names) {
    const auto found = aliases.find(name);
    if (found == aliases.end()) {
      ++removals_unknown_;
      continue;
    }
    const NodeId node = found->second;
    let_go(node, slot, static_cast<std::uint8_t>(1U << static_cast<unsigned>(tier)));
    if (holder(node, slot) == nullptr) aliases.erase(found);
    reclaim(node);
  }
}

void PrefixOracle::cleared(Slot slot) {
  for (const auto& [alias, node] : aliases_of(slot)) {
    let_go(node, slot, 0xFF);
    reclaim(node);
  }
  aliases_of(slot).clear();
}

void PrefixOracle::match(std::span<const std::uint64_t> locals,
                         std::span<std::uint32_t> depths) const {
  std::ranges::fill(depths, 0);
  NodeId node = kRoot;
  for (std::uint32_t depth = 0; depth < locals.size(); ++depth) {
    const auto found = links_.find({node, locals[depth]});
    if (found == links_.end()) return;
    node = found->second;
    bool anyone = false;
    for (const Holder& h : nodes_[node].holders) {
      if (h.slot >= depths.size() || depths[h.slot] != depth) continue;
      depths[h.slot] = depth + 1;
      anyone = true;
    }
    if (!anyone) return;
  }
}

std::uint64_t PrefixOracle::held(Slot slot) const {
  return slot < aliases_.size() ? aliases_[slot].size() : 0;
}

std::unordered_map<std::uint64_t, PrefixOracle::NodeId>& PrefixOracle::aliases_of(Slot slot) {
  if (slot >= aliases_.size()) aliases_.resize(slot + 1);
  return aliases_[slot];
}

PrefixOracle::NodeId PrefixOracle::child_of(NodeId parent, std::uint64_t local) {
  const auto found = links_.find({parent, local});
  if (found != links_.end()) return found->second;
  if (unused_.empty()) {
    unused_.push_back(static_cast<NodeId>(nodes_.size()));
    nodes_.emplace_back();
  }
  const NodeId id = unused_.back();
  unused_.pop_back();
  nodes_[id].parent = parent;
  nodes_[id].local = local;
  ++nodes_[parent].children;
  links_.emplace(Link{parent, local}, id);
  return id;
}

void PrefixOracle::hold(NodeId node, Slot slot, Tier tier) {
  const auto bit = static_cast<std::uint8_t>(1U << static_cast<unsigned>(tier));
  for (Holder& h : nodes_[node].holders) {
    if (h.slot != slot) continue;
    h.tiers |= bit;
    return;
  }
  nodes_[node].holders.push_back({slot, bit});
}

void PrefixOracle::let_go(NodeId node, Slot slot, std::uint8_t tiers) {
  std::vector<Holder>& holders = nodes_[node].holders;
  for (Holder& h : holders) {
    if (h.slot != slot) continue;
    h.tiers &= static_cast<std::uint8_t>(~tiers);
    if (h.tiers == 0) {
      h = holders.back();
      holders.pop_back();
    }
    return;
  }
}

/// Takes out what nobody holds and nothing hangs on, up to the first that must stay.
void PrefixOracle::reclaim(NodeId node) {
  while (node != kRoot && nodes_[node].holders.empty() && nodes_[node].children == 0) {
    const NodeId parent = nodes_[node].parent;
    if (parent == kNone) return;  // gone already
    links_.erase({parent, nodes_[node].local});
    nodes_[node].parent = kNone;
    unused_.push_back(node);
    --nodes_[parent].children;
    node = parent;
  }
}

const PrefixOracle::Holder* PrefixOracle::holder(NodeId node, Slot slot) const {
  for (const Holder& h : nodes_[node].holders) {
    if (h.slot == slot) return &h;
  }
  return nullptr;
}

}  // namespace penstock::kv
