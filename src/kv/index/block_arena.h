#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/cache_line.h"
#include "kv/index/page_pool.h"
#include "kv/index/segment_table.h"

namespace penstock::kv::index {

/// A block's place in the arena, for as long as somebody holds it: chunk << kChunkShift | offset.
using BlockId = std::uint32_t;

/// Where blocks lie: for each its local hash, its alias and 32 bits of its owner's. A run of blocks
/// is adjacent in memory, so that comparing it with a prompt is one sweep. Memory is cut in
/// granules of 8 blocks (a cache line of hashes); what is freed is joined with free neighbours, and
/// a chunk that is free as a whole goes back to the pool.
///
/// One writer at a time; local hashes may be read by anyone at any time (and may then be stale).
class alignas(kCacheLineBytes) BlockArena {
 public:
  static constexpr std::uint32_t kGranule = 8;
  static constexpr std::uint32_t kChunkShift = 12;
  /// 20 bytes a block: as many as fit into a piece.
  static constexpr std::uint32_t kChunkGranules = kPieceBytes / (20 * kGranule);
  static constexpr std::uint32_t kChunkBlocks = kChunkGranules * kGranule;
  /// In `owner`: what the arena itself keeps there while a granule is free. Users' values lack it.
  static constexpr std::uint32_t kFreeBit = 1U << 31;

  BlockArena(PagePool& pool, std::size_t user);
  BlockArena(const BlockArena&) = delete;
  BlockArena& operator=(const BlockArena&) = delete;

  /// Adjacent blocks, at least one granule and at most as many granules as `blocks` need; `got` is
  /// how many blocks it is. With no memory for all it gives the longest stretch there is. kNone
  /// when there is none at all. Owners are cleared.
  BlockId allocate(std::uint32_t blocks, std::uint32_t& got);
  /// Frees whole granules; `first` is aligned to one.
  void free(BlockId first, std::uint32_t blocks);

  [[nodiscard]] std::uint64_t* locals(BlockId id) const {
    return reinterpret_cast<std::uint64_t*>(chunk(id)) + offset(id);
  }
  [[nodiscard]] std::uint64_t* aliases(BlockId id) const {
    return reinterpret_cast<std::uint64_t*>(chunk(id) + kAliasesAt) + offset(id);
  }
  [[nodiscard]] std::uint32_t* owners(BlockId id) const {
    return reinterpret_cast<std::uint32_t*>(chunk(id) + kOwnersAt) + offset(id);
  }
  /// As locals(), for readers: null where no memory is.
  [[nodiscard]] const std::uint64_t* read_locals(BlockId id) const {
    if (id >> kChunkShift >= chunks_max_ || offset(id) >= kChunkBlocks) return nullptr;
    const std::byte* base = chunks_[id >> kChunkShift].load(std::memory_order_acquire);
    return base == nullptr ? nullptr : reinterpret_cast<const std::uint64_t*>(base) + offset(id);
  }
  [[nodiscard]] static std::uint32_t offset(BlockId id) { return id & ((1U << kChunkShift) - 1); }

 private:
  static constexpr std::size_t kAliasesAt = std::size_t{8} * kChunkBlocks;
  static constexpr std::size_t kOwnersAt = std::size_t{16} * kChunkBlocks;
  /// Free stretches of n granules are listed in bin n - 1; all longer ones in the last. The oldest
  /// is used first: what was freed just now lies beside what goes next, and is left to grow into a
  /// chunk.
  static constexpr std::uint32_t kBins = 64;
  struct Bin {
    BlockId oldest = kNone;
    BlockId newest = kNone;
  };
  /// What is left of one that was cut stays the next to be used.
  enum class Age : std::uint8_t { kOldest, kNewest };

  [[nodiscard]] std::byte* chunk(BlockId id) const {
    return chunks_[id >> kChunkShift].load(std::memory_order_relaxed);
  }
  static std::uint32_t bin_of(std::uint32_t granules) {
    return (granules < kBins ? granules : kBins) - 1;
  }
  void list(BlockId first, std::uint32_t granules, Age age);
  void unlist(BlockId first, std::uint32_t granules);
  bool add_chunk();
  [[nodiscard]] std::uint32_t bin_for(std::uint32_t granules) const;

  PagePool& pool_;
  const std::size_t user_;
  const std::uint32_t chunks_max_;
  std::unique_ptr<std::atomic<std::byte*>[]> chunks_;
  alignas(kCacheLineBytes) std::uint32_t chunks_end_ = 0;  // no chunk was ever at or after this
  std::array<Bin, kBins> bins_;
  std::uint64_t bins_filled_ = 0;  // a bit a bin
};

}  // namespace penstock::kv::index
