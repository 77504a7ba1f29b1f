#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace penstock::kv::index {

/// Memory is handed out in pieces of this many bytes, aligned to it.
constexpr std::size_t kPieceBytes = 64 * 1024;
constexpr std::size_t kPiecesPerRegion = 32;

/// All memory of one prefix index that grows. Holds at most `budget_bytes`, by construction: a take
/// that would go beyond it fails. Pieces come from regions of 2 MiB, each one large page but for
/// the first (what needs no more than that takes no more than it needs). They stay mapped until the
/// pool ends, so that a reader that follows a stale handle reads stale bytes and never faults.
/// Thread: any.
///
/// Each user (shard) is entitled to a quarter of an even share: others cannot take what it has not
/// used of that.
class PagePool {
 public:
  PagePool(std::size_t budget_bytes, std::size_t users);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  /// `pieces` adjacent pieces (1..kPiecesPerRegion), not cleared; null when the budget is spent.
  void* take(std::size_t user, std::size_t pieces = 1);
  void give(std::size_t user, void* memory, std::size_t pieces = 1);

  [[nodiscard]] std::size_t used_bytes() const;
  [[nodiscard]] std::size_t budget_bytes() const { return pieces_max_ * kPieceBytes; }

 private:
  struct Region {
    std::byte* base;
    std::uint32_t taken;  // a bit a piece
  };

  static void* take_from(Region& region, std::size_t pieces);
  [[nodiscard]] bool allowed(std::size_t user, std::size_t pieces) const;

  const std::size_t pieces_max_;
  const std::size_t entitled_;  // pieces a user
  mutable std::mutex mutex_;
  std::vector<Region> regions_;
  std::vector<std::size_t> used_by_;  // pieces
  std::size_t used_ = 0;              // pieces
};

/// Zeroes a piece word by word with atomic stores: a reader with a stale handle may be looking.
void clear_piece(void* piece);

}  // namespace penstock::kv::index
