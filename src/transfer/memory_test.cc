// Memory that is mapped once: of what pages it is, for who made it and for who maps it.
#include "transfer/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;
constexpr std::uint64_t kSmallPage = 4 << 10;

/// KiB of a mapping that huge pages stand for, as the kernel says.
std::uint64_t huge_kib(const std::byte* data) {
  std::ifstream maps("/proc/self/smaps");
  std::ostringstream begins;
  begins << std::hex << reinterpret_cast<std::uintptr_t>(data) << '-';
  std::string line;
  while (std::getline(maps, line) && !line.starts_with(begins.str())) {
  }
  std::uint64_t kib = 0;
  while (std::getline(maps, line) && !line.starts_with("VmFlags")) {
    for (const char* name : {"ShmemPmdMapped:", "Shared_Hugetlb:"}) {
      if (line.starts_with(name)) kib += std::stoull(line.substr(std::string(name).size()));
    }
  }
  return kib;
}

/// Whether this system makes huge pages of a memory file at all.
bool grants_huge_pages() {
  const Fd fd(memfd_create("asks", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), 2 * kHugePage), 0);
  void* data = mmap(nullptr, 2 * kHugePage, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return false;
  auto* evenly = static_cast<std::byte*>(data);
  evenly += (-reinterpret_cast<std::uintptr_t>(evenly)) % kHugePage;
  // What lies evenly in memory has to in the file as well.
  const bool mapped = mmap(evenly, kHugePage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                           fd.get(), 0) == evenly;
  *evenly = std::byte{1};
  constexpr int kCollapse = 25;
  const bool granted = mapped && madvise(evenly, kHugePage, kCollapse) == 0;
  munmap(data, 2 * kHugePage);
  return granted;
}

TEST(Memory, OfAFileIsOfHugePagesForBothSidesWhereTheyAreGranted) {
  const Memory ours = Memory::create(MemoryKind::kShared, 4 * kHugePage).value();
  ours.data()[3 * kHugePage] = std::byte{7};
  const Memory theirs = Memory::map(ours.fd(), 4 * kHugePage, false).value();
  ASSERT_NE(theirs.data(), ours.data());
  EXPECT_EQ(theirs.data()[3 * kHugePage], std::byte{7});
  EXPECT_EQ(theirs.data()[0], std::byte{0});
  if (!grants_huge_pages()) GTEST_SKIP() << "this system makes none of a memory file";
  EXPECT_GT(huge_kib(ours.data()), 0);  // few, if memory is in pieces
  EXPECT_EQ(huge_kib(theirs.data()), huge_kib(ours.data()));
}

TEST(Memory, ThatIsTouchedLaterTakesNoPagesUntilThen) {
  const Memory memory = Memory::create(MemoryKind::kShared, 4 * kHugePage, Touch::kLater).value();
  std::uint64_t pages = 0;
  std::vector<unsigned char> there(4 * kHugePage / kSmallPage);
  ASSERT_EQ(mincore(memory.data(), 4 * kHugePage, there.data()), 0);
  for (const unsigned char page : there) pages += page & 1U;
  EXPECT_EQ(pages, 0);
}

TEST(Memory, OfAnySizeIsGivenBackInWhole) {
  for (const std::uint64_t size : {std::uint64_t{1}, std::uint64_t{5000}, kHugePage + 1}) {
    for (const MemoryKind kind : {MemoryKind::kShared, MemoryKind::kPrivate}) {
      auto made = std::make_unique<Memory>(Memory::create(kind, size).value());
      auto mapped = std::make_unique<Memory>();
      if (kind == MemoryKind::kShared) {
        *mapped = Memory::map(made->fd(), made->size_bytes(), false).value();
      }
      std::vector<unsigned char> there(made->size_bytes() / kSmallPage);
      for (auto* one : {&made, &mapped}) {
        std::byte* const data = (*one)->data();
        if (data == nullptr) continue;
        EXPECT_EQ(mincore(data, there.size() * kSmallPage, there.data()), 0);
        one->reset();
        // Nothing allocates here: the place is empty.
        EXPECT_EQ(mincore(data, there.size() * kSmallPage, there.data()), -1);
        EXPECT_EQ(errno, ENOMEM);
      }
    }
  }
}

}  // namespace
}  // namespace penstock::transfer
