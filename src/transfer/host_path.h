#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "transfer/path.h"

namespace penstock::transfer {

/// One owner's arena as a reader on the same host sees it. What it points to outlives the path.
struct HostSource {
  Layout layout;
  const BlockTable* table = nullptr;
  ReaderPage* readers = nullptr;
  const std::atomic<bool>* gone = nullptr;  // set when the owner's process has died; null: ours
  const Clock* clock = nullptr;
};

/// Reads an owner's memory without its help, inside the grant for a chunk at a time.
class HostPath : public CopiedPath {
 public:
  HostPath(PathKind kind, const HostSource& source, ChunkQueue& queue) noexcept
      : CopiedPath(kind, queue), source_(source) {}
  void run(const Chunk& chunk) noexcept final;

 protected:
  /// Gives each block that does not come through its status: those still pending then have.
  virtual void move(const Chunk& chunk) const noexcept = 0;

  const HostSource source_;
};

/// Reads memory that is mapped here: this process's own or a peer's. One copy, summed in passing.
class MappedPath final : public HostPath {
 public:
  MappedPath(PathKind kind, const HostSource& source, const std::byte* data,
             ChunkQueue& queue) noexcept
      : HostPath(kind, source, queue), data_(data) {}

 private:
  void move(const Chunk& chunk) const noexcept override;
  [[nodiscard]] BlockStatus copy(const Chunk& chunk, std::uint32_t block) const noexcept;
  void look_ahead(const Chunk& chunk, std::uint32_t block) const noexcept;

  const std::byte* data_;
};

/// Reads a peer's memory through the kernel (process_vm_readv), many pieces a call. Where the
/// kernel forbids it the blocks are kPathFailed, and another path takes them.
class CmaPath final : public HostPath {
 public:
  CmaPath(const HostSource& source, pid_t pid, std::uint64_t address, ChunkQueue& queue) noexcept
      : HostPath(PathKind::kCma, source, queue), pid_(pid), address_(address) {}

 private:
  void move(const Chunk& chunk) const noexcept override;

  pid_t pid_;
  std::uint64_t address_;
};

}  // namespace penstock::transfer
