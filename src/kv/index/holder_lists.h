#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "base/cache_line.h"
#include "kv/index/page_pool.h"
#include "kv/index/segment_table.h"

namespace penstock::kv::index {

/// Lists of 32-bit words for the runs that more hold than fit into a run's head. A list has
/// 2^size_class words. One writer at a time; words may be read by anyone at any time (and may then
/// be stale: memory that held a list is only ever given to another user of the same pool).
class alignas(kCacheLineBytes) HolderLists {
 public:
  static constexpr std::uint32_t kClassMin = 4;
  static constexpr std::uint32_t kClassMax = 19;  // half a million holders of one run

  HolderLists(PagePool& pool, std::size_t user);
  HolderLists(const HolderLists&) = delete;
  HolderLists& operator=(const HolderLists&) = delete;

  /// kNone without memory.
  std::uint32_t allocate(std::uint32_t size_class);
  void free(std::uint32_t handle, std::uint32_t size_class);

  /// Null where no memory is (for readers with a stale handle).
  [[nodiscard]] std::atomic<std::uint32_t>* words(std::uint32_t handle) const {
    const std::uint32_t piece = handle >> kPieceShift;
    if (piece >= pieces_max_) return nullptr;
    std::atomic<std::uint32_t>* base = pieces_[piece].load(std::memory_order_acquire);
    return base == nullptr ? nullptr : base + (handle & ((1U << kPieceShift) - 1));
  }

 private:
  static constexpr std::uint32_t kPieceShift = 14;  // words of a piece

  /// The number of a fresh entry of pieces_ that names `pieces` adjacent pieces; kNone without
  /// memory.
  std::uint32_t add(std::size_t pieces);

  PagePool& pool_;
  const std::size_t user_;
  const std::uint32_t pieces_max_;
  std::unique_ptr<std::atomic<std::atomic<std::uint32_t>*>[]> pieces_;
  /// The first of each class; a free list's word 0 is the next.
  alignas(kCacheLineBytes) std::array<std::uint32_t, kClassMax + 1> free_;
};

}  // namespace penstock::kv::index
