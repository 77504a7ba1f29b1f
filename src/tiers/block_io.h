#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/result.h"
#include "transfer/file_ring.h"

namespace penstock::tiers {

/// All that the disk tier asks of the system for an open file; tests put one that fails between.
/// Each thread has its own.
class BlockIo {
 public:
  virtual ~BlockIo() = default;
  /// Does them all, in any order, and gives each its status (transfer::FileRing).
  virtual void run(std::span<transfer::FileOp> ops) = 0;
  /// What was written is on the disk when this returns 0; else an errno.
  virtual int sync(int fd) = 0;
  /// Makes a new file that long, and sets the space aside where the file system can, so that a full
  /// disk is found before anything is written. 0 or an errno.
  virtual int allocate(int fd, std::uint64_t size_bytes) = 0;
};

using MakeBlockIo = std::function<Result<std::unique_ptr<BlockIo>>()>;

/// io_uring. Fails with kUnavailable where the system forbids it.
Result<std::unique_ptr<BlockIo>> make_ring_io();

}  // namespace penstock::tiers
