#include "transfer/file_ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "transfer/checksum.h"
#include "transfer/memory.h"
#include "transfer/test_blocks.h"

namespace penstock::transfer {
namespace {

class File : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kBlock = 4096;
  static constexpr std::uint32_t kBlocks = 100;
  static constexpr std::uint32_t kChecked = 128;  // from there on

  File() : memory_(std::size_t{kBlock} * kBlocks), ops_(kBlocks) {
    std::string path = ::testing::TempDir() + "penstock-file-XXXXXX";
    file_ = Fd(mkstemp(path.data()));
    unlink(path.c_str());
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
      testing::write_block(memory_.data() + i * kBlock, kBlock, i, 0);
      ops_[i] = {.kind = FileOp::Kind::kWrite,
                 .fd = file_.get(),
                 .offset_bytes = std::uint64_t{kBlocks - 1 - i} * kBlock,
                 .memory = memory_.data() + i * kBlock,
                 .size_bytes = kBlock};
    }
    auto ring = FileRing::create(8);
    if (ring) ring_ = std::move(*ring);
  }
  void SetUp() override {
    if (ring_ == nullptr) GTEST_SKIP() << "io_uring is forbidden here";
    ASSERT_TRUE(ring_->run(ops_));
    for (FileOp& op : ops_) {
      op.kind = FileOp::Kind::kRead;
      op.checked = {op.memory + kChecked, kBlock - kChecked};
      op.checksum = checksum(op.checked.data(), op.checked.size());
    }
    std::ranges::fill(memory_, std::byte{0});
  }

  void flip(std::uint64_t offset_bytes) {
    std::byte byte{};
    const auto at = static_cast<off_t>(offset_bytes);
    ASSERT_EQ(pread(file_.get(), &byte, 1, at), 1);
    byte ^= std::byte{0x10};
    ASSERT_EQ(pwrite(file_.get(), &byte, 1, at), 1);
  }

  Fd file_;
  std::vector<std::byte> memory_;
  std::vector<FileOp> ops_;
  std::unique_ptr<FileRing> ring_;
};

TEST_F(File, ReadsWhatWasWritten) {
  ASSERT_TRUE(ring_->run(ops_));
  for (std::uint32_t i = 0; i < kBlocks; ++i) {
    EXPECT_EQ(ops_[i].status, BlockStatus::kArrived);
    EXPECT_TRUE(testing::is_block(ops_[i].memory, kBlock, i, 0));
  }
  EXPECT_TRUE(ring_->run({}));
}

TEST_F(File, AFlippedBitATruncatedFileAndABadDescriptorAreMissesOfTheirOwn) {
  flip(ops_[7].offset_bytes + 4095);
  flip(ops_[8].offset_bytes);  // not of what is checked
  flip(ops_[9].offset_bytes + 4095);
  ops_[9].checked = {};
  ASSERT_EQ(ftruncate(file_.get(), static_cast<off_t>(ops_[0].offset_bytes + 100)), 0);
  ops_[50].fd = -1;
  EXPECT_FALSE(ring_->run(ops_));
  EXPECT_EQ(ops_[7].status, BlockStatus::kCorrupt);
  EXPECT_EQ(ops_[0].status, BlockStatus::kTruncated);
  EXPECT_EQ(ops_[50].status, BlockStatus::kPathFailed);
  EXPECT_EQ(ops_[50].error_number, EBADF);
  EXPECT_EQ(std::ranges::count(ops_, BlockStatus::kArrived, &FileOp::status), kBlocks - 3);
}

TEST_F(File, AFullDiskIsAFailedWrite) {
  const Fd full(open("/dev/full", O_RDWR | O_CLOEXEC));
  if (!full.valid()) GTEST_SKIP() << "no /dev/full";
  for (FileOp& op : ops_) op.kind = FileOp::Kind::kWrite;
  ops_[3].fd = full.get();
  EXPECT_FALSE(ring_->run(ops_));
  EXPECT_EQ(ops_[3].status, BlockStatus::kPathFailed);
  EXPECT_EQ(ops_[3].error_number, ENOSPC);
  EXPECT_EQ(std::ranges::count(ops_, BlockStatus::kArrived, &FileOp::status), kBlocks - 1);
}

TEST_F(File, OfAWriteThatIsCutShortTheCauseIsTold) {
  const Fd sealed(memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(sealed.get(), kBlock), 0);
  ASSERT_EQ(fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  FileOp op{.kind = FileOp::Kind::kWrite,
            .fd = sealed.get(),
            .memory = memory_.data(),
            .size_bytes = 2 * kBlock};
  EXPECT_EQ(pwrite(op.fd, op.memory, op.size_bytes, 0), kBlock);  // the system's own answer
  EXPECT_FALSE(ring_->run({&op, 1}));
  EXPECT_EQ(op.status, BlockStatus::kPathFailed);
  EXPECT_EQ(op.error_number, EPERM);
}

TEST(FileRing, RefusesADepthOutOfRange) {
  EXPECT_FALSE(FileRing::create(0).has_value());
  EXPECT_FALSE(FileRing::create(FileRing::kDepthMax + 1).has_value());
}

}  // namespace
}  // namespace penstock::transfer
