#include "kv/index/run.h"

#include <algorithm>

namespace penstock::kv::index {

static_assert(RunTable::kRunsPerPiece * (sizeof(Run) + sizeof(BlockId)) <= kPieceBytes);

RunTable::RunTable(PagePool& pool, std::size_t user)
    : pool_(pool),
      user_(user),
      pieces_max_(static_cast<std::uint32_t>(
          std::min(pool.budget_bytes() / kPieceBytes, (std::size_t{1} << 28) / kRunsPerPiece))),
      pieces_(new std::atomic<Run*>[pieces_max_]) {
  for (std::uint32_t i = 0; i < pieces_max_; ++i) pieces_[i].store(nullptr);
}

std::uint32_t RunTable::allocate() {
  if (first_free_ != kNone) {
    const std::uint32_t id = first_free_;
    first_free_ = (*this)[id].next;
    ++in_use_;
    return id;
  }
  const std::uint32_t piece = end_ / kRunsPerPiece;
  if (piece == pieces_max_) return kNone;
  if (pieces_[piece].load(std::memory_order_relaxed) == nullptr) {
    void* memory = pool_.take(user_);
    if (memory == nullptr) return kNone;
    clear_piece(memory);
    auto* runs = static_cast<Run*>(memory);
    for (std::uint32_t i = 0; i < kRunsPerPiece; ++i) runs[i].parent.store(kDead);
    pieces_[piece].store(runs, std::memory_order_release);
  }
  ++in_use_;
  return end_++;
}

void RunTable::free(std::uint32_t id) {
  (*this)[id].next = first_free_;
  first_free_ = id;
  --in_use_;
}

}  // namespace penstock::kv::index
