#include "fleet/active_blocks.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/rng.h"

namespace penstock::fleet {

ActiveBlocks::ActiveBlocks() : nodes_(1), table_(1024, kNone) {}

ActiveBlocks::Chain ActiveBlocks::add(kv::Slot slot, std::span<const std::uint64_t> locals) {
  grow(slot + 1);
  std::uint32_t node = kEmpty;
  for (const std::uint64_t local : locals) {
    const std::size_t at = probe(node, local);
    node = table_[at] != kNone ? table_[at] : insert(at, node, local);
    count(node, slot);
  }
  return node;
}

void ActiveBlocks::remove(kv::Slot slot, Chain chain) {
  // A parent's counts are at least its children's, so leaves go first.
  for (std::uint32_t node = chain; node != kEmpty;) {
    const std::uint32_t parent = nodes_[node].parent;
    std::uint32_t* link = &nodes_[node].holders;
    while (*link != kNone && holders_[*link].slot != slot) link = &holders_[*link].next;
    CHECK(*link != kNone);
    Holder& holder = holders_[*link];
    if (--holder.count == 0) {
      --distinct_[slot];
      const std::uint32_t gone = *link;
      *link = holder.next;
      holder.next = holders_unused_;
      holders_unused_ = gone;
      if (nodes_[node].holders == kNone) erase(node);
    }
    node = parent;
  }
}

void ActiveBlocks::match(std::span<const std::uint64_t> locals,
                         std::span<std::uint32_t> depths) const {
  std::ranges::fill(depths, 0);
  std::uint32_t node = kEmpty;
  for (std::uint32_t depth = 0; depth < locals.size(); ++depth) {
    node = table_[probe(node, locals[depth])];
    if (node == kNone) return;
    for (std::uint32_t h = nodes_[node].holders; h != kNone; h = holders_[h].next) {
      if (holders_[h].slot < depths.size()) depths[holders_[h].slot] = depth + 1;
    }
  }
}

std::size_t ActiveBlocks::home(std::uint32_t parent, std::uint64_t local) const noexcept {
  return mix64(local + (std::uint64_t{parent} + 1) * 0x9e3779b97f4a7c15ULL) & (table_.size() - 1);
}

/// Where the child of `parent` is, or the hole where it would go.
std::size_t ActiveBlocks::probe(std::uint32_t parent, std::uint64_t local) const noexcept {
  std::size_t at = home(parent, local);
  while (table_[at] != kNone) {
    const Node& node = nodes_[table_[at]];
    if (node.local == local && node.parent == parent) break;
    at = (at + 1) & (table_.size() - 1);
  }
  return at;
}

std::uint32_t ActiveBlocks::insert(std::size_t at, std::uint32_t parent, std::uint64_t local) {
  std::uint32_t id = nodes_unused_;
  if (id != kNone) {
    nodes_unused_ = nodes_[id].parent;
  } else {
    id = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back();
  }
  nodes_[id] = {.local = local, .parent = parent};
  table_[at] = id;
  if (++used_ * 2 > table_.size()) rehash();
  return id;
}

void ActiveBlocks::erase(std::uint32_t node) {
  const std::size_t mask = table_.size() - 1;
  std::size_t hole = probe(nodes_[node].parent, nodes_[node].local);
  for (std::size_t i = (hole + 1) & mask; table_[i] != kNone; i = (i + 1) & mask) {
    const Node& other = nodes_[table_[i]];
    if (((i - home(other.parent, other.local)) & mask) >= ((i - hole) & mask)) {
      table_[hole] = table_[i];
      hole = i;
    }
  }
  table_[hole] = kNone;
  --used_;
  nodes_[node].parent = nodes_unused_;
  nodes_unused_ = node;
}

void ActiveBlocks::rehash() {
  std::vector<std::uint32_t> old(table_.size() * 2, kNone);
  old.swap(table_);
  for (const std::uint32_t id : old) {
    if (id != kNone) table_[probe(nodes_[id].parent, nodes_[id].local)] = id;
  }
}

void ActiveBlocks::count(std::uint32_t node, kv::Slot slot) {
  std::uint32_t h = nodes_[node].holders;
  while (h != kNone && holders_[h].slot != slot) h = holders_[h].next;
  if (h != kNone) {
    ++holders_[h].count;
    return;
  }
  h = holders_unused_;
  if (h != kNone) {
    holders_unused_ = holders_[h].next;
  } else {
    h = static_cast<std::uint32_t>(holders_.size());
    holders_.emplace_back();
  }
  holders_[h] = {.slot = slot, .count = 1, .next = nodes_[node].holders};
  nodes_[node].holders = h;
  ++distinct_[slot];
}

}  // namespace penstock::fleet
