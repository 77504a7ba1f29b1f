#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/cache_line.h"
#include "kv/index/block_arena.h"
#include "kv/index/page_pool.h"
#include "kv/prefix_types.h"

namespace penstock::kv::index {

/// A run is never longer, so that a depth within it fits an entry and a column an extent.
constexpr std::uint32_t kRunBlocksMax = 480;
/// `parent` of a run that begins a chain, and of one that is not in use.
constexpr std::uint32_t kRoot = 0xFFFFFFFE;
constexpr std::uint32_t kDead = 0xFFFFFFFD;
/// The internal tier of what has to stand before anybody holds it: restore() builds with it.
constexpr std::uint32_t kScaffoldTier = 3;

constexpr auto kRelaxed = std::memory_order_relaxed;

/// One holder of a run: slot << 12 | tier << 10 | depth - 1. It holds the first `depth` blocks.
using Entry = std::uint32_t;
constexpr std::uint32_t kSlotsLimit = 1U << 20;
constexpr std::uint32_t entry_key(Slot slot, std::uint32_t tier) { return slot << 2 | tier; }
constexpr std::uint32_t entry_depth(Entry entry) { return (entry & 1023) + 1; }
constexpr Entry make_entry(std::uint32_t key, std::uint32_t depth) {
  return key << 10 | (depth - 1);
}

/// Adjacent blocks of one chain, and who holds how many of them from the run's first on. That each
/// holder has a prefix of each run is what makes a lookup cheap; a holder that has a hole has it
/// between two runs. One cache line.
struct alignas(kCacheLineBytes) Run {
  static constexpr std::uint32_t kInline = 6;
  // Flags.
  static constexpr std::uint32_t kPiece = 1;  // lies behind its parent run's last block in memory
  static constexpr std::uint32_t kHasPiece = 2;     // such a run lies behind this one
  static constexpr std::uint32_t kExtentStale = 4;  // the child extent may be less than it says

  // Read by readers under `version`, which is odd while they change.
  std::atomic<std::uint32_t> version;
  std::atomic<BlockId> start;
  std::atomic<BlockId> parent;               // the block before the first; or kRoot, kDead
  std::atomic<std::uint32_t> shape;          // length | child extent << 16
  std::atomic<std::uint32_t> holders;        // count | size class of the list << 20 (0: inline)
  std::atomic<std::uint32_t> held[kInline];  // entries, sorted by key; or [0] the list's handle

  // The writer's own.
  std::uint32_t capacity : 10;  // blocks of memory
  std::uint32_t flags : 4;
  std::uint32_t columns : 18;  // slots that name the run's blocks otherwise
  std::uint32_t first_child;   // runs whose parent is a block of this one
  std::uint32_t next;          // of its parent's children; of the free runs
  std::uint32_t previous;
  std::uint32_t touched;  // when an event last stored into it

  [[nodiscard]] std::uint32_t length() const {
    return shape.load(std::memory_order_relaxed) & 0xFFFF;
  }
  /// No child hangs at or after this offset + 1.
  [[nodiscard]] std::uint32_t child_extent() const {
    return shape.load(std::memory_order_relaxed) >> 16;
  }
  void set_shape(std::uint32_t length, std::uint32_t child_extent) {
    shape.store(length | child_extent << 16, std::memory_order_relaxed);
  }
  [[nodiscard]] BlockId first() const { return start.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint32_t count() const {
    return holders.load(std::memory_order_relaxed) & 0xFFFFF;
  }
  [[nodiscard]] std::uint32_t list_class() const {
    return holders.load(std::memory_order_relaxed) >> 20;
  }
  [[nodiscard]] bool dead() const { return parent.load(std::memory_order_relaxed) == kDead; }
};
static_assert(sizeof(Run) == 64);

/// What readers see of a run changes only while one of these lives.
class RunChange {
 public:
  explicit RunChange(Run& run) : run_(run) {
    run_.version.store(run_.version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
  }
  ~RunChange() {
    run_.version.store(run_.version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
  RunChange(const RunChange&) = delete;
  RunChange& operator=(const RunChange&) = delete;

 private:
  Run& run_;
};

/// All runs of a shard by number. Memory of runs is never used for anything else, so a reader may
/// look at any run at any time.
class alignas(kCacheLineBytes) RunTable {
 public:
  static constexpr std::uint32_t kRunsPerPiece = 960;  // and four bytes more for each

  RunTable(PagePool& pool, std::size_t user);

  /// A run with parent kDead; kNone without memory.
  std::uint32_t allocate();
  /// The run is dead.
  void free(std::uint32_t id);

  [[nodiscard]] Run& operator[](std::uint32_t id) const {
    return pieces_[id / kRunsPerPiece].load(std::memory_order_relaxed)[id % kRunsPerPiece];
  }
  /// A copy of the run's start, apart from its head: these are few enough to stay in the cache, so
  /// that a reader can have the blocks on their way while it waits for the head. Maybe stale.
  [[nodiscard]] std::atomic<BlockId>& start_hint(std::uint32_t id) const {
    Run* piece = pieces_[id / kRunsPerPiece].load(std::memory_order_relaxed);
    return reinterpret_cast<std::atomic<BlockId>*>(piece + kRunsPerPiece)[id % kRunsPerPiece];
  }
  void set_start(std::uint32_t id, BlockId start) {
    (*this)[id].start.store(start, std::memory_order_relaxed);
    start_hint(id).store(start, std::memory_order_relaxed);
  }
  /// Numbers below this were handed out at least once.
  [[nodiscard]] std::uint32_t end() const { return end_; }
  [[nodiscard]] std::uint32_t in_use() const { return in_use_; }

 private:
  PagePool& pool_;
  const std::size_t user_;
  const std::uint32_t pieces_max_;
  std::unique_ptr<std::atomic<Run*>[]> pieces_;
  alignas(kCacheLineBytes) std::uint32_t end_ = 0;
  std::uint32_t first_free_ = kNone;
  std::uint32_t in_use_ = 0;
};

}  // namespace penstock::kv::index
