#pragma once

#include <cstdint>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::fleet {

/// A request that has no first token yet.
struct QueuedPrefill {
  std::uint32_t uncached_tokens = 0;
  std::uint32_t new_blocks = 0;  // of KV, that it will take
};

/// Each worker's requests without a first token, in the order in which they were given out. One
/// store for all workers: it allocates when there are more in the whole fleet than ever before, and
/// more than kReserved a worker. Bounded by the requests in flight. Not thread safe.
class PrefillQueues final {
 public:
  using Entry = std::uint32_t;  // names what push() put in, until remove() or clear()
  static constexpr std::uint32_t kReserved = 8;

  void grow(std::uint32_t slots);

  Entry push(kv::Slot slot, const QueuedPrefill& prompt);
  void remove(kv::Slot slot, Entry entry) noexcept;
  void clear(kv::Slot slot) noexcept;

  [[nodiscard]] std::uint32_t size(kv::Slot slot) const noexcept { return queues_[slot].size; }

  /// Calls visit(prompt) for the last `count` <= size(slot) of a worker's, oldest first.
  template <class Visit>
  void for_last(kv::Slot slot, std::uint32_t count, Visit visit) const {
    if (count == 0) return;
    Entry at = queues_[slot].last;
    for (std::uint32_t i = 1; i < count; ++i) at = nodes_[at].previous;
    for (; at != kNone; at = nodes_[at].next) visit(nodes_[at].prompt);
  }

 private:
  static constexpr Entry kNone = 0xFFFFFFFF;
  struct Node {
    QueuedPrefill prompt;
    Entry previous = kNone;
    Entry next = kNone;  // in its queue, or in the list of unused ones
  };
  struct Queue {
    Entry first = kNone;
    Entry last = kNone;
    std::uint32_t size = 0;
  };

  std::vector<Node> nodes_;
  Entry unused_ = kNone;
  std::vector<Queue> queues_;  // by slot
};

}  // namespace penstock::fleet
