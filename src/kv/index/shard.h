#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/cache_line.h"
#include "kv/index/block_arena.h"
#include "kv/index/holder_lists.h"
#include "kv/index/page_pool.h"
#include "kv/index/run.h"
#include "kv/index/segment_table.h"
#include "kv/prefix_types.h"

namespace penstock::kv::index {

/// Held by a shard's writer. Sections are short (one event), so it spins, and yields when the
/// machine has fewer cores than writers.
class WriterLock {
 public:
  void lock();
  void unlock() { taken_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> taken_ = false;
};

struct ShardCounters {
  std::uint64_t blocks = 0;  // distinct blocks in the tree
  std::uint64_t splits = 0;
  std::uint64_t merges = 0;
  std::uint64_t shed_runs = 0;         // dropped to stay within the budget ...
  std::uint64_t shed_memberships = 0;  // ... and the memberships that went with them
  std::uint64_t refused_blocks = 0;    // not stored: no memory even after shedding
  std::uint64_t unknown_removals = 0;
};

/// What a shard tells of a slot.
struct ShedSink {
  virtual ~ShedSink() = default;
  /// `blocks` of what the slot holds are no longer, or never were, in the index.
  virtual void shed(Slot slot, std::uint64_t blocks) = 0;
};

/// A part of the index: all chains that begin with certain blocks, as a tree of runs.
///
/// One writer at a time, which holds `lock`; readers (`match`) take none. A reader copies each
/// run's head under the run's version, walks down, and looks at the end whether all versions it saw
/// still stand; if not it begins anew. So its answer was true at one moment during the call.
class alignas(2 * kCacheLineBytes) Shard {
 public:
  struct Setup {
    PagePool& pool;
    ShedSink& shed;
    std::size_t number = 0;
    std::uint64_t seed = 0;
  };
  explicit Shard(const Setup& setup);
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  WriterLock lock;
  /// A reader that was turned away often asks writers to stand back for a moment.
  std::atomic<std::uint32_t> impatient_readers = 0;

  // For the writer.

  /// The block that `slot` holds under this name; kNone if there is none here.
  [[nodiscard]] BlockId find(Slot slot, std::uint64_t alias) const;
  /// `parent`: from find(), or kRoot.
  void store(Slot slot, std::uint32_t tier, BlockId parent, std::span<const StoredBlock> blocks);
  /// Removes from the front as many as it can find here; how many.
  std::size_t remove(Slot slot, std::uint32_t tier, std::span<const std::uint64_t> aliases);
  /// `slot` holds nothing in `first_tier` and those after it.
  void clear(Slot slot, std::uint32_t first_tier = 0);
  /// The last block of a chain (kRoot for none); kNone if it is not all there.
  [[nodiscard]] BlockId follow(std::span<const std::uint64_t> chain) const;
  /// Makes room for what nobody holds yet. It stands until remove_scaffold().
  void scaffold(BlockId parent, std::span<const StoredBlock> blocks) {
    store(0, kScaffoldTier, parent, blocks);
  }
  void remove_scaffold() { clear(0, kScaffoldTier); }
  [[nodiscard]] const ShardCounters& counters() const { return counters_; }
  ShardCounters& counters() { return counters_; }

  /// Calls visit(id, run) for each run that is in use, parents before children.
  template <class Visit>
  void for_each_run(const Visit& visit) const;
  struct RunView {
    std::span<const std::uint64_t> locals;
    std::span<const std::uint64_t> aliases;
    std::span<const std::atomic<Entry>> entries;
  };
  [[nodiscard]] RunView view(const Run& run) const;
  [[nodiscard]] std::uint64_t name(std::uint32_t id, Slot slot, std::uint32_t offset) const;
  [[nodiscard]] bool has_own_names(std::uint32_t id, Slot slot) const {
    return runs_[id].columns > 0 && column(id, slot) != kNone;
  }
  /// The run that a run follows (kNone: it begins a chain) and the block in it that is its parent.
  [[nodiscard]] std::pair<std::uint32_t, std::uint32_t> parent_of(const Run& run) const {
    const BlockId parent = run.parent.load(std::memory_order_relaxed);
    if (parent == kRoot) return {kNone, 0};
    const std::uint32_t id = owner_of(parent);
    return {id, parent - runs_[id].first()};
  }
  [[nodiscard]] std::uint32_t runs() const { return runs_.in_use(); }
  /// Aborts when an invariant does not hold. For tests.
  void check() const;

  // For readers.

  /// Writes the depth of every slot that holds something of the chain into `depths`, which is zero.
  /// False when the tree changed under way: `depths` must be zeroed and the call repeated.
  [[nodiscard]] bool match(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths,
                           TierSet tiers) const;

 private:
  struct Cursor {
    std::uint32_t run;  // kNone: before any chain
    std::uint32_t at;   // where in the run the next block goes
  };
  struct Walker;

  // Hashes.
  [[nodiscard]] std::uint32_t edge_tag(BlockId parent, std::uint64_t local) const;
  [[nodiscard]] std::uint32_t alias_tag(std::uint64_t alias) const;
  [[nodiscard]] std::uint32_t column_tag(std::uint32_t run, Slot slot) const;

  // Holders (shard_holders.cc).
  [[nodiscard]] std::atomic<Entry>* entries(const Run& run) const;
  [[nodiscard]] std::uint32_t position(const Run& run, std::uint32_t key) const;
  [[nodiscard]] std::uint32_t depth(const Run& run, Slot slot, std::uint32_t tier) const;
  [[nodiscard]] std::uint32_t real_depth(const Run& run, Slot slot) const;
  [[nodiscard]] std::uint32_t depth_max(const Run& run, std::uint32_t enough) const;
  bool set_depth(Run& run, std::uint32_t key, std::uint32_t depth);
  bool insert_entry(Run& run, std::uint32_t at, Entry entry);
  void erase_entry(Run& run, std::uint32_t at);
  void free_list(Run& run);

  // Runs (shard_runs.cc).
  [[nodiscard]] std::uint32_t owner_of(BlockId id) const { return *blocks_.owners(id); }
  [[nodiscard]] std::uint32_t child_of(const Cursor& cursor, std::uint64_t local) const;
  void adopt(std::uint32_t child, BlockId parent);
  void disown(std::uint32_t child);
  void refresh_child_extent(Run& run);
  std::uint32_t split(std::uint32_t id, std::uint32_t at);
  [[nodiscard]] std::uint32_t list_for_upper(const Run& lower, std::uint32_t at,
                                             std::uint32_t& list);
  void move_holders(Run& lower, Run& upper, std::uint32_t at, std::uint32_t list_class,
                    std::uint32_t list);
  void move_children(Run& lower, std::uint32_t upper_id, std::uint32_t at);
  std::uint32_t merge(std::uint32_t id);
  [[nodiscard]] bool mergeable(const Run& lower, const Run& upper) const;
  void mend(Cursor& cursor);
  void trim(std::uint32_t id);
  void shorten(Run& run, std::uint32_t length);
  void die(std::uint32_t id);
  void release_memory(Run& run, std::uint32_t length);
  bool make_room();
  std::uint32_t new_run();
  void shed(std::uint32_t id);

  // Storing (shard_store.cc).
  bool claim(Cursor& cursor, std::uint32_t count, Slot slot, std::uint32_t tier,
             std::span<const StoredBlock> blocks);
  std::uint32_t append(Cursor& cursor, Slot slot, std::uint32_t tier,
                       std::span<const StoredBlock> blocks);
  std::uint32_t create(Cursor& cursor, Slot slot, std::uint32_t tier,
                       std::span<const StoredBlock> blocks);
  std::uint32_t fill(std::uint32_t id, BlockId at, std::span<const StoredBlock> blocks);
  [[nodiscard]] std::uint32_t common(const Run& run, std::uint32_t at,
                                     std::span<const StoredBlock> blocks) const;
  void refuse(Slot slot, std::size_t blocks);

  // Removing (shard_remove.cc).
  [[nodiscard]] bool holds(BlockId block, Slot slot, std::uint32_t tier) const;
  void drop(std::uint32_t id, Slot slot, std::uint32_t tier, std::uint32_t from, std::uint32_t to);
  void release(std::uint32_t id, Slot slot, std::uint32_t tier, std::uint32_t depth);

  // Names other than a block's alias (shard_names.cc).
  [[nodiscard]] BlockId column(std::uint32_t id, Slot slot) const;
  [[nodiscard]] std::uint64_t& word(BlockId column, std::uint32_t offset) const;
  BlockId new_column(std::uint32_t id, Slot slot, std::uint32_t capacity);
  void free_column(std::uint32_t id, Slot slot, BlockId column);
  bool set_names(std::uint32_t id, std::uint32_t at, Slot slot,
                 std::span<const StoredBlock> blocks);
  void drop_names(std::uint32_t id, Slot slot, std::uint32_t from, std::uint32_t to);
  bool split_columns(std::uint32_t lower, std::uint32_t upper, std::uint32_t at);
  bool insert_alias(std::uint64_t alias, BlockId block);

  void check_run(std::uint32_t id) const;

  // On the lock's cache line: a writer on another core gets with it what each event changes.
  std::uint32_t event_ = 0;
  std::uint32_t pinned_ = kNone;  // the run that the event under way stands on: it stays
  ShardCounters counters_;
  std::uint32_t clock_hand_ = 0;

  alignas(kCacheLineBytes) ShedSink& shed_;
  const std::uint64_t seed_;
  BlockArena blocks_;
  HolderLists lists_;
  RunTable runs_;
  SegmentTable<kDenseSegmentBytes> edges_;  // (parent block, hash of the child's first) -> run
  SegmentTable<kPieceBytes> aliases_;       // name -> block
  SegmentTable<kPieceBytes> columns_;       // (run, slot) -> column
};

template <class Visit>
void Shard::for_each_run(const Visit& visit) const {
  for (std::uint32_t id = 0; id < runs_.end(); ++id) {
    if (runs_[id].parent.load(std::memory_order_relaxed) == kRoot) visit(id, runs_[id]);
  }
  // Depth first without a stack: down to the first child, else on to the next sibling, else up.
  for (std::uint32_t root = 0; root < runs_.end(); ++root) {
    if (runs_[root].parent.load(std::memory_order_relaxed) != kRoot) continue;
    std::uint32_t id = runs_[root].first_child;
    while (id != kNone) {
      visit(id, runs_[id]);
      if (runs_[id].first_child != kNone) {
        id = runs_[id].first_child;
        continue;
      }
      while (id != root && runs_[id].next == kNone) {
        id = owner_of(runs_[id].parent.load(std::memory_order_relaxed));
      }
      id = id == root ? kNone : runs_[id].next;
    }
  }
}

}  // namespace penstock::kv::index
