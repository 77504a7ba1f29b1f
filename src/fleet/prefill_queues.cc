#include "fleet/prefill_queues.h"

#include <algorithm>

namespace penstock::fleet {

void PrefillQueues::grow(std::uint32_t slots) {
  if (slots <= queues_.size()) return;
  queues_.resize(slots);
  const std::size_t wanted = std::size_t{slots} * kReserved;
  if (nodes_.capacity() < wanted) nodes_.reserve(std::max(wanted, 2 * nodes_.capacity()));
}

PrefillQueues::Entry PrefillQueues::push(kv::Slot slot, const QueuedPrefill& prompt) {
  Queue& queue = queues_[slot];
  const Node node{.prompt = prompt, .previous = queue.last};
  Entry entry = unused_;
  if (entry == kNone) {
    entry = static_cast<Entry>(nodes_.size());
    nodes_.push_back(node);
  } else {
    unused_ = nodes_[entry].next;
    nodes_[entry] = node;
  }
  (queue.last == kNone ? queue.first : nodes_[queue.last].next) = entry;
  queue.last = entry;
  ++queue.size;
  return entry;
}

void PrefillQueues::remove(kv::Slot slot, Entry entry) noexcept {
  Queue& queue = queues_[slot];
  Node& node = nodes_[entry];
  (node.previous == kNone ? queue.first : nodes_[node.previous].next) = node.next;
  (node.next == kNone ? queue.last : nodes_[node.next].previous) = node.previous;
  --queue.size;
  node.next = unused_;
  unused_ = entry;
}

void PrefillQueues::clear(kv::Slot slot) noexcept {
  while (queues_[slot].size > 0) remove(slot, queues_[slot].first);
}

}  // namespace penstock::fleet
