#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "transfer/checksum.h"
#include "transfer/transfer.h"

namespace penstock::transfer {

/// One read or write of a whole piece, between an open file and memory that stays where it is. With
/// a file opened O_DIRECT, memory, offset and size are multiples of what the file system asks for.
struct FileOp {
  enum class Kind : std::uint8_t { kRead, kWrite };
  Kind kind = Kind::kRead;
  int fd = -1;
  std::uint64_t offset_bytes = 0;
  std::byte* memory = nullptr;
  std::uint32_t size_bytes = 0;
  /// Of a read: these bytes of the piece must have `checksum`. None: who asks verifies what came.
  std::span<const std::byte> checked;
  Checksum checksum = 0;
  /// kArrived; kTruncated: the file has less; kCorrupt; kPathFailed: `error_number` says why, also
  /// of a write of which a part is in the file.
  BlockStatus status = BlockStatus::kPending;
  int error_number = 0;
};

/// Whether what has come is what was to come.
[[nodiscard]] bool verifies(const FileOp& op) noexcept;

/// Carries file operations through io_uring, up to a number of them at once. A read is verified
/// before it counts, while others are under way; whatever was done by half is a failure, never a
/// shorter success. A write has reached the file, not yet the disk: who needs that calls fdatasync.
/// Not thread safe.
class FileRing final {
 public:
  static constexpr unsigned kDepthMax = 4096;

  /// Fails with kUnavailable where the system forbids io_uring.
  static Result<std::unique_ptr<FileRing>> create(unsigned depth);
  ~FileRing();

  /// Does them all, in any order, and gives each its status. True if all arrived.
  bool run(std::span<FileOp> ops) noexcept;

 private:
  struct Ring;
  explicit FileRing(std::unique_ptr<Ring> ring) noexcept;
  std::unique_ptr<Ring> ring_;
};

}  // namespace penstock::transfer
