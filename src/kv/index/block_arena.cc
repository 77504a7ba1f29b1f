#include "kv/index/block_arena.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"

namespace penstock::kv::index {
namespace {

constexpr std::uint32_t kGranuleBlocks = BlockArena::kGranule;

// A free stretch keeps in its owners: [0] kFreeBit | granules, [1] the newer and [2] the older one
// of its bin, and in the last one kFreeBit | granules again, for the neighbour behind.
constexpr std::uint32_t kNewer = 1;
constexpr std::uint32_t kOlder = 2;

std::uint32_t chunks_for(std::size_t budget_bytes) {
  const std::size_t most = (std::size_t{1} << (32 - BlockArena::kChunkShift)) - 1;
  return static_cast<std::uint32_t>(std::min(budget_bytes / kPieceBytes, most));
}

}  // namespace

BlockArena::BlockArena(PagePool& pool, std::size_t user)
    : pool_(pool),
      user_(user),
      chunks_max_(chunks_for(pool.budget_bytes())),
      chunks_(new std::atomic<std::byte*>[chunks_max_]) {
  static_assert(kChunkBlocks <= 1U << kChunkShift);
  static_assert(kOwnersAt + std::size_t{4} * kChunkBlocks <= kPieceBytes);
  for (std::uint32_t i = 0; i < chunks_max_; ++i) chunks_[i].store(nullptr);
}

void BlockArena::list(BlockId first, std::uint32_t granules, Age age) {
  std::uint32_t* owner = owners(first);
  const std::uint32_t number = bin_of(granules);
  Bin& bin = bins_[number];
  owner[0] = kFreeBit | granules;
  owner[granules * kGranuleBlocks - 1] = kFreeBit | granules;
  const BlockId newer = age == Age::kOldest ? bin.oldest : kNone;
  const BlockId older = age == Age::kNewest ? bin.newest : kNone;
  owner[kNewer] = newer;
  owner[kOlder] = older;
  (newer != kNone ? owners(newer)[kOlder] : bin.newest) = first;
  (older != kNone ? owners(older)[kNewer] : bin.oldest) = first;
  bins_filled_ |= std::uint64_t{1} << number;
}

void BlockArena::unlist(BlockId first, std::uint32_t granules) {
  const std::uint32_t* owner = owners(first);
  const BlockId newer = owner[kNewer];
  const BlockId older = owner[kOlder];
  const std::uint32_t number = bin_of(granules);
  Bin& bin = bins_[number];
  (newer != kNone ? owners(newer)[kOlder] : bin.newest) = older;
  (older != kNone ? owners(older)[kNewer] : bin.oldest) = newer;
  if (bin.oldest == kNone) bins_filled_ &= ~(std::uint64_t{1} << number);
}

bool BlockArena::add_chunk() {
  std::uint32_t at = 0;
  while (at < chunks_end_ && chunks_[at].load(std::memory_order_relaxed) != nullptr) ++at;
  if (at == chunks_max_) return false;
  auto* memory = static_cast<std::byte*>(pool_.take(user_));
  if (memory == nullptr) return false;
  chunks_[at].store(memory, std::memory_order_release);
  chunks_end_ = std::max(chunks_end_, at + 1);
  list(at << kChunkShift, kChunkGranules, Age::kNewest);
  return true;
}

/// The bin to take `granules` from: the smallest that has enough, else the longest there is.
std::uint32_t BlockArena::bin_for(std::uint32_t granules) const {
  const std::uint64_t enough = bins_filled_ & ~((std::uint64_t{1} << (granules - 1)) - 1);
  return enough != 0 ? std::countr_zero(enough) : 63 - std::countl_zero(bins_filled_);
}

BlockId BlockArena::allocate(std::uint32_t blocks, std::uint32_t& got) {
  std::uint32_t want = std::min((blocks + kGranuleBlocks - 1) / kGranuleBlocks, kBins);
  CHECK(want > 0);
  const bool fits = bins_filled_ >> (want - 1) != 0;
  if (!fits && !add_chunk() && bins_filled_ == 0) return kNone;
  const BlockId first = bins_[bin_for(want)].oldest;
  const std::uint32_t have = owners(first)[0] & ~kFreeBit;
  want = std::min(want, have);
  unlist(first, have);
  if (have > want) list(first + want * kGranuleBlocks, have - want, Age::kOldest);
  got = want * kGranuleBlocks;
  std::memset(owners(first), 0, std::size_t{4} * got);
  return first;
}

void BlockArena::free(BlockId first, std::uint32_t blocks) {
  if (blocks == 0) return;
  CHECK(first % kGranuleBlocks == 0 && blocks % kGranuleBlocks == 0);
  std::uint32_t granules = blocks / kGranuleBlocks;
  const std::uint32_t end = offset(first) + blocks;
  if (end < kChunkBlocks) {
    const std::uint32_t behind = owners(first + blocks)[0];
    if ((behind & kFreeBit) != 0) {
      unlist(first + blocks, behind & ~kFreeBit);
      granules += behind & ~kFreeBit;
    }
  }
  if (offset(first) > 0) {
    const std::uint32_t before = owners(first - 1)[0];
    if ((before & kFreeBit) != 0) {
      first -= (before & ~kFreeBit) * kGranuleBlocks;
      unlist(first, before & ~kFreeBit);
      granules += before & ~kFreeBit;
    }
  }
  if (granules == kChunkGranules) {
    std::atomic<std::byte*>& slot = chunks_[first >> kChunkShift];
    pool_.give(user_, slot.exchange(nullptr, std::memory_order_relaxed));
    return;
  }
  list(first, granules, Age::kNewest);
}

}  // namespace penstock::kv::index
