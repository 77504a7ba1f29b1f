#pragma once

#include <atomic>
#include <cstdint>

#include "base/cache_line.h"
#include "kv/index/shard.h"
#include "kv/prefix_index.h"

namespace penstock::kv {

/// What the index keeps of a slot beside its blocks.
struct alignas(kCacheLineBytes) PrefixIndex::SlotState {
  std::atomic<std::uint64_t> epoch = 0;
  std::atomic<std::uint64_t> sequence = 0;
  std::atomic<std::uint64_t> shed = 0;
  /// The block that the slot stored last, and where: the next one mostly follows it.
  std::atomic<std::uint64_t> last_alias = 0;
  std::atomic<std::uint8_t> last_shard = 0;
};

struct PrefixIndex::Shed final : index::ShedSink {
  explicit Shed(SlotState* of) : states(of) {}
  void shed(Slot slot, std::uint64_t blocks) override {
    states[slot].shed.fetch_add(blocks, std::memory_order_relaxed);
  }
  SlotState* states;
};

}  // namespace penstock::kv
