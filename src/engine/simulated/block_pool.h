#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/block.h"

namespace penstock::engine::simulated {

/// Consecutive blocks of one sequence that became reusable together.
struct StoredRun {
  std::uint64_t tag = 0;                // the sequence's, see Submission
  std::uint32_t first_block = 0;        // index in the sequence of keys[0]
  kv::BlockHash parent;                 // the block before, or the sequence's root
  std::span<const kv::BlockHash> keys;  // valid during the call only
};

/// Told what a pool can be hit on, at the moment it changes. Must not call the pool.
class PoolListener {
 public:
  virtual ~PoolListener() = default;
  virtual void stored(const StoredRun& run) = 0;
  /// The blocks one allocation pushed out, in that order. The span is valid during the call only.
  virtual void removed(std::span<const kv::BlockHash> keys) = 0;
};

/// A fixed number of KV blocks with a prefix cache: which physical block (slot) holds what, who
/// uses it, what goes next when room is needed. It holds names, not bytes.
///
/// Every slot is in exactly one state:
///   free      holds nothing
///   private   referenced once, being filled; nobody else can find it
///   cached    filled and named; referenced by >= 1 sequences, or
///   inactive  filled and named, referenced by none: in the LRU list, evicted from its head
/// Two sequences that filled the same content own a slot each; both stay, as copies of one name.
/// Lookups give the oldest copy. The listener hears of a name's first copy and of its last.
///
/// Names that differ only in the lowest three bits of `low` lie side by side in the index, which
/// makes runs of them cheap.
///
/// Not thread safe. Memory is allocated in the constructor only (and for a listener's batches).
class BlockPool final {
 public:
  using Slot = std::uint32_t;

  /// `capacity` in [1, 2^28]. `listener` may be null and must outlive the pool.
  explicit BlockPool(std::uint32_t capacity, PoolListener* listener = nullptr);

  /// Appends to `out` the slots of the leading blocks of key(0), key(1), ... key(count - 1) that
  /// are held. Returns how many of them somebody references. Takes no reference.
  template <class KeyOf>
  std::uint32_t match(std::uint32_t count, KeyOf key, std::vector<Slot>& out) const {
    std::uint32_t referenced = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
      const Slot slot = find(key(i));
      if (slot == kNone) break;
      referenced += slots_[slot].references > 0 ? 1 : 0;
      out.push_back(slot);
    }
    return referenced;
  }

  /// Adds a reference to each of what match() gave. Nothing may have changed in between.
  void acquire(std::span<const Slot> slots);

  /// Appends `count` private slots to `owned`: free ones first, then evicted ones. False, and
  /// nothing changed, if there are not as many.
  [[nodiscard]] bool allocate(std::uint32_t count, std::vector<Slot>& owned);

  /// Names private slots that have been filled: they are found from now on. `slots` and `run.keys`
  /// have equal size.
  void complete(std::span<const Slot> slots, const StoredRun& run);

  /// Drops one reference of each, last to first, so that a chain's leaves are evicted before their
  /// parents. Empties `owned`. Private slots become free.
  void release(std::vector<Slot>& owned);

  /// Makes every inactive slot free, which is no eviction. Gives the names that are gone with them
  /// (none without a listener), of which the listener is not told. Valid until the next call.
  std::span<const kv::BlockHash> clear();

  [[nodiscard]] std::uint32_t capacity() const noexcept { return capacity_; }
  /// Slots referenced by somebody; a shared one counts once.
  [[nodiscard]] std::uint32_t active() const noexcept { return active_; }
  /// What allocate() can give: free and inactive slots.
  [[nodiscard]] std::uint32_t available() const noexcept { return capacity_ - active_; }
  /// Distinct names that can be found now.
  [[nodiscard]] std::uint32_t names() const noexcept { return names_; }
  /// Slots evicted since the start.
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }

  /// Recounts everything and CHECKs the states' exclusion and the counters. O(capacity); for tests.
  /// `references` of a slot must equal the number of times it appears in `owned`.
  void check_invariants(std::span<const std::span<const Slot>> owned) const;

 private:
  static constexpr Slot kNone = 0xFFFFFFFF;
  static constexpr Slot kUnnamed = 0xFFFFFFFE;

  struct Block {
    kv::BlockHash key;
    std::uint32_t references = 0;
    Slot previous = kNone;      // in the LRU list
    Slot next = kNone;          // in the LRU list, or in the list of free slots
    Slot next_copy = kUnnamed;  // kUnnamed: free or private; kNone: the youngest copy
  };

  /// An open-addressed index from name to oldest copy, linear probing, no tombstones.
  struct Entry {
    std::uint32_t tag = 0;
    Slot slot = kNone;
  };

  [[nodiscard]] static std::uint32_t tag_of(const kv::BlockHash& key) noexcept {
    const std::uint64_t mixed = ((key.low >> 3) ^ key.high) * 0x9E3779B97F4A7C15ULL;
    return (static_cast<std::uint32_t>(mixed >> 32) << 3) | (key.low & 7);
  }

  /// Where `key` is, or the hole where it would go.
  [[nodiscard]] std::size_t probe(const kv::BlockHash& key, std::uint32_t tag) const noexcept {
    std::size_t at = tag & mask_;
    while (index_[at].slot != kNone &&
           !(index_[at].tag == tag && slots_[index_[at].slot].key == key)) {
      at = (at + 1) & mask_;
    }
    return at;
  }

  [[nodiscard]] Slot find(const kv::BlockHash& key) const noexcept {
    return index_[probe(key, tag_of(key))].slot;
  }

  [[nodiscard]] bool name(Slot slot, const kv::BlockHash& key);
  void forget(Slot slot);
  void erase_entry(std::size_t at);
  void free(Slot slot) noexcept;
  [[nodiscard]] Slot take_oldest();
  void push_inactive(Slot slot) noexcept;
  void unlink_inactive(Slot slot) noexcept;

  const std::uint32_t capacity_;
  PoolListener* const listener_;
  std::vector<Block> slots_;  // one more than capacity: the LRU list's sentinel
  std::vector<Entry> index_;
  std::size_t mask_;
  Slot free_ = kNone;
  std::uint32_t free_count_;
  std::uint32_t active_ = 0;
  std::uint32_t names_ = 0;
  std::uint64_t evictions_ = 0;
  std::vector<kv::BlockHash> removed_;  // by the call under way
};

}  // namespace penstock::engine::simulated
