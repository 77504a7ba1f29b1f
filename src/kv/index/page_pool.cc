#include "kv/index/page_pool.h"

#include <sys/mman.h>

#include <atomic>

#include "base/check.h"

namespace penstock::kv::index {
namespace {

constexpr std::size_t kRegionBytes = kPieceBytes * kPiecesPerRegion;

/// Null when the system has no memory to give. `huge`: as one large page, where there are any.
std::byte* map_region(bool huge) {
  // Twice the size, so that an aligned region lies within; the rest is unmapped again.
  void* raw = ::mmap(nullptr, 2 * kRegionBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto* bytes = static_cast<std::byte*>(raw);
  const std::size_t over = reinterpret_cast<std::uintptr_t>(bytes) % kRegionBytes;
  const std::size_t before = over == 0 ? 0 : kRegionBytes - over;
  if (before > 0) ::munmap(bytes, before);
  ::munmap(bytes + before + kRegionBytes, kRegionBytes - before);
#ifdef MADV_HUGEPAGE
  // Lookups touch a few random lines each: with small pages the TLB misses cost more than they do.
  if (huge) ::madvise(bytes + before, kRegionBytes, MADV_HUGEPAGE);
#endif
  return bytes + before;
}

}  // namespace

PagePool::PagePool(std::size_t budget_bytes, std::size_t users)
    : pieces_max_(budget_bytes / kPieceBytes),
      entitled_(pieces_max_ / (4 * users)),
      used_by_(users, 0) {}

PagePool::~PagePool() {
  for (const Region& region : regions_) ::munmap(region.base, kRegionBytes);
}

bool PagePool::allowed(std::size_t user, std::size_t pieces) const {
  if (used_ + pieces > pieces_max_) return false;
  std::size_t owed = 0;  // what the others may still claim of their entitlement
  for (std::size_t other = 0; other < used_by_.size(); ++other) {
    if (other != user && used_by_[other] < entitled_) owed += entitled_ - used_by_[other];
  }
  return used_by_[user] + pieces <= entitled_ || used_ + pieces + owed <= pieces_max_;
}

void* PagePool::take_from(Region& region, std::size_t pieces) {
  const std::uint32_t want = pieces == kPiecesPerRegion ? ~0U : (std::uint32_t{1} << pieces) - 1;
  for (std::size_t at = 0; at + pieces <= kPiecesPerRegion; ++at) {
    if ((region.taken & (want << at)) != 0) continue;
    region.taken |= want << at;
    return region.base + at * kPieceBytes;
  }
  return nullptr;
}

void* PagePool::take(std::size_t user, std::size_t pieces) {
  CHECK(pieces >= 1 && pieces <= kPiecesPerRegion);
  const std::lock_guard lock(mutex_);
  if (!allowed(user, pieces)) return nullptr;
  void* got = nullptr;
  for (Region& region : regions_) {
    if (region.taken != ~0U) got = take_from(region, pieces);
    if (got != nullptr) break;
  }
  // Adjacent pieces may be missing though single ones are left: then the take fails, as the pool
  // must not map more than its budget (rounded up to a region).
  if (got == nullptr && regions_.size() * kPiecesPerRegion < pieces_max_) {
    std::byte* base = map_region(!regions_.empty());
    if (base == nullptr) return nullptr;
    regions_.push_back({base, 0});
    got = take_from(regions_.back(), pieces);
  }
  if (got != nullptr) {
    used_ += pieces;
    used_by_[user] += pieces;
  }
  return got;
}

void PagePool::give(std::size_t user, void* memory, std::size_t pieces) {
  const std::lock_guard lock(mutex_);
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  for (Region& region : regions_) {
    const auto base = reinterpret_cast<std::uintptr_t>(region.base);
    if (address < base || address >= base + kRegionBytes) continue;
    const std::size_t at = (address - base) / kPieceBytes;
    for (std::size_t i = at; i < at + pieces; ++i) region.taken &= ~(std::uint32_t{1} << i);
    used_ -= pieces;
    used_by_[user] -= pieces;
    return;
  }
  CHECK(!"memory of another pool");
}

void clear_piece(void* piece) {
  auto* words = static_cast<std::uint64_t*>(piece);
  for (std::size_t i = 0; i < kPieceBytes / 8; ++i) {
    std::atomic_ref(words[i]).store(0, std::memory_order_relaxed);
  }
}

std::size_t PagePool::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_ * kPieceBytes;
}

}  // namespace penstock::kv::index
