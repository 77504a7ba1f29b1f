#pragma once

#include "transfer/chunk_queue.h"
#include "transfer/meter.h"
#include "transfer/traffic.h"
#include "transfer/transfer.h"

namespace penstock::transfer {

/// One way to one peer's arena. Threads claim chunks from its queue, move the blocks, and verify
/// each before it is committed: when a chunk is finished, each of its blocks is a miss, arrived, or
/// (in all but the last layer range) still pending. Thread: any.
class Path {
 public:
  explicit Path(PathKind kind) noexcept;
  virtual ~Path() = default;
  Path(const Path&) = delete;
  Path& operator=(const Path&) = delete;

  /// Where transfers for this path wait.
  virtual ChunkQueue& queue() noexcept = 0;
  [[nodiscard]] PathKind kind() const noexcept { return kind_; }
  [[nodiscard]] Meter& meter() noexcept { return meter_; }

  /// Ends a transfer's attempt: called by whoever finished its last chunk.
  static void finished(Transfer& transfer) noexcept;

 private:
  PathKind kind_;
  Meter meter_;
};

/// A path that the threads of a CopyPool serve: its queue is the pool's.
class CopiedPath : public Path {
 public:
  CopiedPath(PathKind kind, ChunkQueue& queue) noexcept : Path(kind), queue_(queue) {}
  ChunkQueue& queue() noexcept final { return queue_; }
  /// Moves one chunk. Thread: the pool's, several at once.
  virtual void run(const Chunk& chunk) noexcept = 0;

 private:
  ChunkQueue& queue_;
};

}  // namespace penstock::transfer
