#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/cache_line.h"
#include "kv/index/page_pool.h"

namespace penstock::kv::index {

/// Nothing found. No value of a table, id of a run or of a block is this.
constexpr std::uint32_t kNone = 0xFFFFFFFF;

/// Segments of a table that is looked into more than it is changed.
constexpr std::size_t kDenseSegmentBytes = kPieceBytes / 4;

/// A multimap from 32-bit tags to 32-bit values in 8-byte slots that grows by one segment at a
/// time: extendible hashing over segments of linear probing without tombstones. A tag is a hash;
/// whoever asks decides whether a value with the right tag is the one meant.
///
/// One writer at a time (the caller's lock). `read` may run at any time on any thread: what it
/// finds must be checked by the caller (it may be stale), what it does not find was not there at
/// one moment during the call.
///
/// The smaller its segments, the denser a small table lies, and the sooner it is in the cache; a
/// large one takes longer to find its way to them. kPieceBytes is a multiple of them.
template <std::size_t kSegmentBytes>
class alignas(kCacheLineBytes) SegmentTable {
 public:
  static constexpr std::uint32_t kSlots = kSegmentBytes / 8 - 8;  // 8 words of head

  SegmentTable(PagePool& pool, std::size_t user) : pool_(pool), user_(user) {}
  ~SegmentTable() = default;  // the pool owns the memory
  SegmentTable(const SegmentTable&) = delete;
  SegmentTable& operator=(const SegmentTable&) = delete;

  /// False when there is no room and no memory for more; the table is unchanged then.
  bool insert(std::uint32_t tag, std::uint32_t value);
  /// Takes one such entry out; false if there is none.
  bool erase(std::uint32_t tag, std::uint32_t value);
  /// O(segments); for the writer.
  [[nodiscard]] std::uint64_t size() const;

  void prefetch(std::uint32_t tag) const {
    if (const Segment* s = segment_of(tag)) __builtin_prefetch(&s->slots[home(tag)], 1);
  }

  /// The first value under `tag` that `is_it(value)` accepts, or kNone. For the writer.
  template <class IsIt>
  [[nodiscard]] std::uint32_t find(std::uint32_t tag, const IsIt& is_it) const {
    const Segment* s = segment_of(tag);
    return s == nullptr ? kNone : probe(*s, tag, is_it);
  }

  /// As find, for readers.
  template <class IsIt>
  [[nodiscard]] std::uint32_t read(std::uint32_t tag, const IsIt& is_it) const {
    for (;;) {
      const Directory* directory = directory_.load(std::memory_order_acquire);
      if (directory == nullptr) return kNone;
      const std::atomic<Segment*>& entry = directory->entry(tag);
      const Segment* s = entry.load(std::memory_order_acquire);
      const std::uint32_t before = s->version.load(std::memory_order_acquire);
      const std::uint32_t value = probe(*s, tag, is_it);
      if (value != kNone) return value;
      std::atomic_thread_fence(std::memory_order_acquire);
      if ((before & 1) == 0 && s->version.load(std::memory_order_relaxed) == before &&
          entry.load(std::memory_order_relaxed) == s &&
          directory_.load(std::memory_order_relaxed) == directory) {
        return kNone;
      }
    }
  }

 private:
  /// A slot is 0 when empty, else tag << 32 | value + 1 (kNone is no value).
  struct Segment {
    std::atomic<std::uint32_t> version;  // odd while entries move
    std::atomic<std::uint32_t> count;    // the writer's own, as depth is; a stale reader may look
    std::atomic<std::uint32_t> depth;    // leading bits that all its tags share
    std::uint32_t unused[13];
    std::atomic<std::uint64_t> slots[kSlots];
  };
  static_assert(sizeof(Segment) == kSegmentBytes && kPieceBytes % kSegmentBytes == 0);

  struct Directory {
    explicit Directory(std::uint32_t bits)
        : depth(bits), entries(new std::atomic<Segment*>[std::size_t{1} << bits]) {}
    [[nodiscard]] std::size_t index(std::uint32_t tag) const {
      return static_cast<std::size_t>((std::uint64_t{tag} << depth) >> 32);
    }
    [[nodiscard]] std::atomic<Segment*>& entry(std::uint32_t tag) const {
      return entries[index(tag)];
    }
    std::uint32_t depth;
    std::unique_ptr<std::atomic<Segment*>[]> entries;
  };

  [[nodiscard]] static std::uint32_t home(std::uint32_t tag) {
    return ((tag & 0xFFFF) * kSlots) >> 16;
  }
  [[nodiscard]] static std::uint32_t next(std::uint32_t at) {
    return at + 1 == kSlots ? 0 : at + 1;
  }
  [[nodiscard]] Segment* segment_of(std::uint32_t tag) const {
    const Directory* directory = directory_.load(std::memory_order_relaxed);
    return directory == nullptr ? nullptr : directory->entry(tag).load(std::memory_order_relaxed);
  }

  template <class IsIt>
  [[nodiscard]] static std::uint32_t probe(const Segment& s, std::uint32_t tag, const IsIt& is_it) {
    std::uint32_t at = home(tag);
    for (std::uint32_t step = 0; step < kSlots; ++step, at = next(at)) {
      const std::uint64_t slot = s.slots[at].load(std::memory_order_acquire);
      if (slot == 0) return kNone;
      if (slot >> 32 != tag) continue;
      const auto value = static_cast<std::uint32_t>(slot) - 1;
      if (is_it(value)) return value;
    }
    return kNone;
  }

  static void place(Segment& s, std::uint64_t slot);
  Segment* new_segment(std::uint32_t depth);
  bool split(Segment& s, std::uint32_t tag);
  bool make_deeper();

  PagePool& pool_;
  const std::size_t user_;
  std::atomic<Directory*> directory_ = nullptr;
  // All that ever were: readers may still look into an old one. They double, so the old ones weigh
  // no more than the last.
  alignas(kCacheLineBytes) std::vector<std::unique_ptr<Directory>> directories_;
  std::uint64_t segments_ = 0;
  std::span<std::byte> spare_;  // of the piece that was taken last
};

extern template class SegmentTable<kDenseSegmentBytes>;
extern template class SegmentTable<kPieceBytes>;

}  // namespace penstock::kv::index
