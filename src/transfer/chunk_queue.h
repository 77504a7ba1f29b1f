#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>

#include "base/result.h"
#include "transfer/transfer.h"

namespace penstock::transfer {

/// Transfers waiting for threads, handed out in chunks: several threads may share
/// a transfer, and a small one of higher priority waits for a chunk at most. A layer range is
/// begun only when the one before it is in place. Holds no memory of its own: transfers are linked
/// through themselves. Thread: any.
class ChunkQueue final {
 public:
  static constexpr std::uint32_t kTransfersMax = 4096;
  static constexpr std::uint64_t kChunkBytes = 256 << 10;  // what a second-level cache holds

  explicit ChunkQueue(std::uint64_t chunk_bytes = kChunkBytes) noexcept
      : chunk_bytes_(chunk_bytes) {}

  /// Queues a transfer whose path is set. kOverloaded when full, kUnavailable when stopped; then
  /// the transfer is as it was.
  Result<void> push(Transfer& transfer);
  /// The next chunk; waits for one if `wait`. Nothing: none now, or stopped.
  std::optional<Chunk> claim(bool wait);
  /// A chunk of a transfer that is cancelled or past its deadline, if one waits.
  std::optional<Chunk> claim_ended(TimePoint now);
  /// Takes a chunk back, all its blocks dealt with. True if it was the transfer's last: then nobody
  /// but the caller touches it any more.
  bool finish(const Chunk& chunk);
  /// Lets nothing in, lets out what is there, and ends the waiting.
  void stop();

 private:
  std::optional<Chunk> take(std::optional<TimePoint> ended_by = std::nullopt);

  const std::uint64_t chunk_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Transfer* first_ = nullptr;  // by priority, then age
  std::uint32_t size_ = 0;
  std::uint32_t waiting_ = 0;
  bool stopped_ = false;
};

}  // namespace penstock::transfer
