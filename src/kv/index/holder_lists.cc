#include "kv/index/holder_lists.h"

#include <algorithm>

namespace penstock::kv::index {

HolderLists::HolderLists(PagePool& pool, std::size_t user)
    : pool_(pool),
      user_(user),
      pieces_max_(static_cast<std::uint32_t>(
          std::min(pool.budget_bytes() / kPieceBytes, (std::size_t{1} << (32 - kPieceShift)) - 1))),
      pieces_(new std::atomic<std::atomic<std::uint32_t>*>[pieces_max_]) {
  for (std::uint32_t i = 0; i < pieces_max_; ++i) pieces_[i].store(nullptr);
  free_.fill(kNone);
}

std::uint32_t HolderLists::add(std::size_t pieces) {
  std::uint32_t at = 0;
  while (at < pieces_max_ && pieces_[at].load(std::memory_order_relaxed) != nullptr) ++at;
  if (at == pieces_max_) return kNone;
  void* memory = pool_.take(user_, pieces);
  if (memory == nullptr) return kNone;
  pieces_[at].store(static_cast<std::atomic<std::uint32_t>*>(memory), std::memory_order_release);
  return at;
}

std::uint32_t HolderLists::allocate(std::uint32_t size_class) {
  if (size_class >= kPieceShift) {
    const std::uint32_t piece = add(std::size_t{1} << (size_class - kPieceShift));
    return piece == kNone ? kNone : piece << kPieceShift;
  }
  if (free_[size_class] == kNone) {
    // The smallest longer list is halved down to the class; failing that, a new piece is.
    std::uint32_t from = size_class + 1;
    while (from < kPieceShift && free_[from] == kNone) ++from;
    std::uint32_t handle = kNone;
    if (from < kPieceShift) {
      handle = free_[from];
      free_[from] = words(handle)->load(std::memory_order_relaxed);
    } else {
      const std::uint32_t piece = add(1);
      if (piece == kNone) return kNone;
      handle = piece << kPieceShift;
      from = kPieceShift;
    }
    while (from > size_class) {
      --from;
      free(handle + (1U << from), from);
    }
    return handle;
  }
  const std::uint32_t handle = free_[size_class];
  free_[size_class] = words(handle)->load(std::memory_order_relaxed);
  return handle;
}

void HolderLists::free(std::uint32_t handle, std::uint32_t size_class) {
  if (size_class >= kPieceShift) {
    std::atomic<std::uint32_t>* memory =
        pieces_[handle >> kPieceShift].exchange(nullptr, std::memory_order_relaxed);
    pool_.give(user_, memory, std::size_t{1} << (size_class - kPieceShift));
    return;
  }
  words(handle)->store(free_[size_class], std::memory_order_relaxed);
  free_[size_class] = handle;
}

}  // namespace penstock::kv::index
