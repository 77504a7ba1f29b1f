#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kv/prefix_types.h"

namespace penstock::kv {
namespace index {
class Shard;
class PagePool;
}  // namespace index

/// Which slot holds which blocks, by content: fed by KV events, asked for the longest match of a
/// chain. One index is for one context (model, block size); adapter and salt are in the local
/// hashes.
///
/// A radix tree of runs (kv/README.md), cut into shards by a chain's first block. Writers may call
/// from any thread; a shard has one writer at a time. The events of one slot must come one after
/// the other, as its engine sent them. Readers take no lock, allocate nothing and write nothing
/// shared; an answer was true at one moment during the call (for chains of more than 256 runs: each
/// stretch of 256 was).
///
/// Blocks are told apart by all 64 bits of their local hash and by all blocks before them: two
/// chains are taken for one only if XXH3-64 collides. A wrong answer costs a cache miss; where
/// bytes are reused, BlockHash and the tokens decide.
///
/// An alias names at most one block of a slot at a time; an engine that gives one name to two
/// blocks it holds has one of them removed when it removes the name, and the other when it is
/// cleared. Slots whose engines hash alike share aliases at no cost; a slot with names of its own
/// costs about 22 bytes more for each block it holds.
///
/// Memory: everything that grows comes out of `budget_bytes`, checked before it is taken. When it
/// is spent, a store first drops runs at the ends of chains: of the next 64 such runs of its shard
/// the one that no event stored into for the longest. What is dropped or finds no room is counted,
/// also by slot (shed_blocks): the slot's picture is then less than what it holds, never more.
class PrefixIndex {
 public:
  struct Options {
    std::string context;  // what restore() compares: model, block size and alike
    std::size_t budget_bytes = std::size_t{1} << 30;
    unsigned shards = 8;      // a power of two, 1..256
    Slot slots_max = 16'384;  // slots from here on are refused and counted; at most 2^20
    std::uint64_t seed = 0;   // of the tables' hashes: random where prompts are not trusted
  };

  using Position = EventPosition;

  struct Stats {
    std::uint64_t blocks = 0;  // distinct blocks held
    std::uint64_t runs = 0;
    std::uint64_t splits = 0;
    std::uint64_t merges = 0;
    std::uint64_t parent_unknown = 0;    // stores, not attached: the slot does not hold the parent
    std::uint64_t unknown_removals = 0;  // blocks
    std::uint64_t shed_runs = 0;         // dropped for the budget
    std::uint64_t shed_memberships = 0;  // (slot, tier, block) that went with them
    std::uint64_t refused_blocks = 0;    // not stored for want of memory
    std::uint64_t slots_refused = 0;     // calls with a slot of slots_max or more
    std::uint64_t memory_bytes = 0;      // taken, of ...
    std::uint64_t budget_bytes = 0;
  };

  /// A budget below what the shards need to begin (64 KiB each and table) works, badly.
  explicit PrefixIndex(Options options);
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Events. All are idempotent. `at`, if not unknown, is noted together with the change.

  /// `slot` holds `blocks`, each following the one before, the first following the block that the
  /// slot calls `parent` (none: beginning a chain). A parent that the slot does not hold in any
  /// tier: false, nothing is stored, parent_unknown counts it.
  bool stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent,
              std::span<const StoredBlock> blocks, Position at = {});
  /// `slot` no longer holds these in `tier`. What it does not hold there is ignored and counted.
  void removed(Slot slot, Tier tier, std::span<const std::uint64_t> aliases, Position at = {});
  /// `slot` holds nothing, in no tier. O(runs).
  void cleared(Slot slot, Position at = {});

  // Questions. Thread: any.

  /// One more than the highest slot that ever came.
  [[nodiscard]] Slot slots() const { return slots_.load(std::memory_order_relaxed); }

  /// depths[slot] = leading blocks of the chain that the slot holds, without a gap from the root
  /// on, each in one of `tiers`. `depths` is the caller's, with at least slots() entries; entries
  /// [0, min(size, slots())) are written (zero: holds nothing), later ones are left alone.
  /// Returns how many entries were written. O(slots / 4 + blocks + holders on the path).
  std::size_t match(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths,
                    TierSet tiers = kDeviceOnly) const;

  /// By tier, cumulatively: device[slot] as match() with kDeviceOnly, host[slot] with
  /// kDeviceAndHost, disk[slot] with kAllTiers; so host - device blocks can be fetched from host
  /// memory. Each of the three is true at a moment of its own.
  struct TierDepths {
    std::span<std::uint32_t> device;
    std::span<std::uint32_t> host;
    std::span<std::uint32_t> disk;
  };
  void match(std::span<const std::uint64_t> locals, const TierDepths& depths) const;

  [[nodiscard]] Position position(Slot slot) const;
  /// Blocks of the slot that were dropped or refused for want of memory since its last clear.
  [[nodiscard]] std::uint64_t shed_blocks(Slot slot) const;
  [[nodiscard]] Stats stats() const;
  [[nodiscard]] const std::string& context() const { return options_.context; }

  /// All that is held and each slot's position, as of one moment; readers go on,
  /// writers wait. An event that was half in will be idempotent when it comes again.
  [[nodiscard]] std::vector<std::byte> snapshot() const;
  /// Takes a snapshot in. The index is empty. Fails with kInvalidArgument, and leaves the index
  /// empty, when the bytes are no snapshot, were changed or cut, or are of another context; what
  /// they say may exceed the budget: then some of it is shed.
  Result<void> restore(std::span<const std::byte> snapshot);

  /// Aborts when an invariant of the structure does not hold. For tests; writers wait.
  void check() const;

 private:
  struct SlotState;
  struct Shed;

  bool accept(Slot slot);
  [[nodiscard]] std::size_t root_shard(std::uint64_t local) const;
  [[nodiscard]] std::size_t hint(Slot slot, std::uint64_t alias) const;
  void set_hint(std::uint64_t alias, std::size_t shard) const;
  void set_last(Slot slot, std::optional<std::uint64_t> parent, std::uint64_t alias,
                std::size_t shard);
  void advance(Slot slot, Position at);

  const Options options_;
  std::atomic<Slot> slots_ = 0;
  std::atomic<std::uint64_t> parent_unknown_ = 0;
  std::atomic<std::uint64_t> unknown_removals_ = 0;
  std::atomic<std::uint64_t> slots_refused_ = 0;
  std::unique_ptr<SlotState[]> states_;
  std::unique_ptr<Shed> shed_;
  std::unique_ptr<index::PagePool> pool_;
  std::vector<std::unique_ptr<index::Shard>> shards_;
  /// The shard where an alias was last seen; wrong at worst, then all are asked. Of a chain that a
  /// slot's events let grow only the last block is here, once the slot goes on elsewhere: so events
  /// of several writers rarely meet in this table, and it remembers longer.
  std::unique_ptr<std::atomic<std::uint8_t>[]> hints_;
};

}  // namespace penstock::kv
