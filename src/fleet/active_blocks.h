#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::fleet {

/// The distinct prompt blocks of the requests in flight on each worker, shared prefixes counted
/// once: how much of each worker's KV the prompts given to it take. A tree of chains with counts;
/// what is not in flight takes no room, so it is bounded by the prompts in flight. Not thread safe.
class ActiveBlocks final {
 public:
  using Chain = std::uint32_t;  // names what add() put in
  static constexpr Chain kEmpty = 0;

  ActiveBlocks();

  /// Counts a prompt's blocks on `slot` until remove(). Cost: O(blocks), allocation amortised.
  Chain add(kv::Slot slot, std::span<const std::uint64_t> locals);
  void remove(kv::Slot slot, Chain chain);

  /// In depths[s], how many leading blocks of the prompt are in flight on slot s.
  void match(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths) const;

  /// By slot, up to the highest ever used.
  [[nodiscard]] std::span<const std::uint64_t> distinct() const noexcept { return distinct_; }
  void grow(std::uint32_t slots) {
    if (slots > distinct_.size()) distinct_.resize(slots);
  }

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  struct Node {
    std::uint64_t local = 0;
    std::uint32_t parent = kNone;
    std::uint32_t holders = kNone;  // first in the list; kNone: nobody, the node is unused
  };
  struct Holder {
    kv::Slot slot = 0;
    std::uint32_t count = 0;
    std::uint32_t next = kNone;
  };

  [[nodiscard]] std::size_t home(std::uint32_t parent, std::uint64_t local) const noexcept;
  [[nodiscard]] std::size_t probe(std::uint32_t parent, std::uint64_t local) const noexcept;
  std::uint32_t insert(std::size_t at, std::uint32_t parent, std::uint64_t local);
  void erase(std::uint32_t node);
  void rehash();
  void count(std::uint32_t node, kv::Slot slot);

  std::vector<Node> nodes_;           // [0] is the root
  std::vector<Holder> holders_;       // lists of nodes' holders, and of the unused
  std::vector<std::uint32_t> table_;  // open addressing, linear, no tombstones; kNone: a hole
  std::uint32_t used_ = 0;
  std::uint32_t nodes_unused_ = kNone;  // a list through Node::parent
  std::uint32_t holders_unused_ = kNone;
  std::vector<std::uint64_t> distinct_;
};

}  // namespace penstock::fleet
