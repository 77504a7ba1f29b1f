#include "tiers/block_io.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace penstock::tiers {
namespace {

constexpr unsigned kDepth = 32;  // operations under way: what a disk needs to be busy

class RingIo final : public BlockIo {
 public:
  explicit RingIo(std::unique_ptr<transfer::FileRing> ring) : ring_(std::move(ring)) {}
  void run(std::span<transfer::FileOp> ops) override { ring_->run(ops); }
  int sync(int fd) override { return fdatasync(fd) == 0 ? 0 : errno; }
  int allocate(int fd, std::uint64_t size_bytes) override {
    // Not posix_fallocate: where the file system cannot, that writes single bytes, which direct I/O
    // refuses. A full disk is then found by what is written.
    const auto size = static_cast<off_t>(size_bytes);
    if (::fallocate(fd, 0, 0, size) == 0) return 0;
    if (errno != EOPNOTSUPP) return errno;
    return ::ftruncate(fd, size) == 0 ? 0 : errno;
  }

 private:
  std::unique_ptr<transfer::FileRing> ring_;
};

}  // namespace

Result<std::unique_ptr<BlockIo>> make_ring_io() {
  auto ring = transfer::FileRing::create(kDepth);
  if (!ring) return std::unexpected(ring.error());
  return std::make_unique<RingIo>(std::move(*ring));
}

}  // namespace penstock::tiers
