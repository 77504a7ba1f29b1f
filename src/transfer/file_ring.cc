#include "transfer/file_ring.h"

#include <fmt/format.h>
#include <liburing.h>
#include <unistd.h>

#include <cerrno>

#include "base/check.h"
#include "transfer/checksum.h"

namespace penstock::transfer {

struct FileRing::Ring {
  io_uring uring{};
  unsigned depth = 0;
};

FileRing::FileRing(std::unique_ptr<Ring> ring) noexcept : ring_(std::move(ring)) {}

Result<std::unique_ptr<FileRing>> FileRing::create(unsigned depth) {
  if (depth == 0 || depth > kDepthMax) {
    return fail(Code::kInvalidArgument, fmt::format("a depth of {}: 1 to {}", depth, kDepthMax));
  }
  auto ring = std::make_unique<Ring>();
  ring->depth = depth;
  // Nobody is interrupted for what has come: it is looked at in the next call anyway.
  int error = io_uring_queue_init(depth, &ring->uring, IORING_SETUP_COOP_TASKRUN);
  if (error == -EINVAL) error = io_uring_queue_init(depth, &ring->uring, 0);  // before Linux 5.19
  if (error != 0) return fail(Code::kUnavailable, fmt::format("io_uring: {}", errno_text(-error)));
  return std::unique_ptr<FileRing>(new FileRing(std::move(ring)));
}

FileRing::~FileRing() { io_uring_queue_exit(&ring_->uring); }

namespace {

void begin(FileOp& op, io_uring_sqe* entry) noexcept {
  op.status = BlockStatus::kPending;
  op.error_number = 0;
  if (op.kind == FileOp::Kind::kWrite) {
    io_uring_prep_write(entry, op.fd, op.memory, op.size_bytes, op.offset_bytes);
  } else {
    io_uring_prep_read(entry, op.fd, op.memory, op.size_bytes, op.offset_bytes);
  }
  io_uring_sqe_set_data(entry, &op);
}

/// A write that was cut short says why when its rest is tried: no room, most often.
int write_rest(const FileOp& op, int moved) noexcept {
  while (moved >= 0 && static_cast<std::uint32_t>(moved) < op.size_bytes) {
    const ssize_t more =
        pwrite(op.fd, op.memory + moved, op.size_bytes - static_cast<std::uint32_t>(moved),
               static_cast<off_t>(op.offset_bytes) + moved);
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) return more == 0 ? -ENOSPC : -errno;
    moved += static_cast<int>(more);
  }
  return moved;
}

void end(FileOp& op, int moved) noexcept {
  if (op.kind == FileOp::Kind::kWrite) moved = write_rest(op, moved);
  if (moved < 0) {
    op.status = BlockStatus::kPathFailed;
    op.error_number = -moved;
  } else if (static_cast<std::uint32_t>(moved) != op.size_bytes) {
    op.status = BlockStatus::kTruncated;
  } else {
    op.status = verifies(op) ? BlockStatus::kArrived : BlockStatus::kCorrupt;
  }
}

}  // namespace

bool verifies(const FileOp& op) noexcept {
  return op.kind == FileOp::Kind::kWrite || op.checked.empty() ||
         checksum(op.checked.data(), op.checked.size()) == op.checksum;
}

bool FileRing::run(std::span<FileOp> ops) noexcept {
  io_uring& uring = ring_->uring;
  std::size_t begun = 0;
  std::size_t under_way = 0;
  bool all = true;
  while (begun < ops.size() || under_way > 0) {
    while (begun < ops.size() && under_way < ring_->depth) {
      io_uring_sqe* entry = io_uring_get_sqe(&uring);
      if (entry == nullptr) break;  // the kernel has not taken what is queued yet
      begin(ops[begun++], entry);
      ++under_way;
    }
    const int submitted = io_uring_submit_and_wait(&uring, 1);
    // Busy and interrupted calls are repeated; anything else is a bug of ours.
    CHECK(submitted >= 0 || submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY);
    io_uring_cqe* done = nullptr;
    while (io_uring_peek_cqe(&uring, &done) == 0) {
      auto& op = *static_cast<FileOp*>(io_uring_cqe_get_data(done));
      const int moved = done->res;
      io_uring_cqe_seen(&uring, done);  // also of a failure: no completion is seen twice
      end(op, moved);
      all = all && op.status == BlockStatus::kArrived;
      --under_way;
    }
  }
  return all;
}

}  // namespace penstock::transfer
