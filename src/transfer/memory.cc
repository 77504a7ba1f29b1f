#include "transfer/memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;
constexpr std::uint64_t kSmallPage = 4 << 10;
constexpr int kHugePageBits = 21 << MFD_HUGE_SHIFT;  // in flags: whatever the system's default is
static_assert(MFD_HUGE_SHIFT == MAP_HUGE_SHIFT);
#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25  // Linux 6.1; a libc may be older
#endif

std::unexpected<Error> failed(std::string_view what, std::uint64_t size_bytes) {
  return fail(Code::kUnavailable,
              fmt::format("{} of {} bytes: {}", what, size_bytes, errno_text(errno)));
}

/// A memfd whose size is fixed for good.
Result<Fd> make_file(std::uint64_t size_bytes, bool huge) {
  Fd fd(memfd_create("penstock-arena",
                     MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | kHugePageBits : 0U)));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return failed("a memory file", size_bytes);
  }
  return fd;
}

/// As mmap(), but from where a huge page can begin: whoever has a file's huge pages at another
/// place maps them as small ones. If others take that place meanwhile, it is only slower.
std::byte* map_evenly(std::uint64_t size_bytes, int protection, int flags, int fd) {
  void* place = nullptr;
  if (size_bytes >= kHugePage) {
    const std::uint64_t more = size_bytes + kHugePage;
    void* free = mmap(nullptr, more, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (free != MAP_FAILED) {
      munmap(free, more);
      place = static_cast<std::byte*>(free) + (-reinterpret_cast<std::uintptr_t>(free)) % kHugePage;
    }
  }
  void* data = mmap(place, size_bytes, protection, flags, fd, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

/// Writes to each page, so that it is there; or says that the system does not grant so many.
bool populate(void* data, std::uint64_t size_bytes) {
  return madvise(data, size_bytes, MADV_POPULATE_WRITE) == 0;
}

/// Makes a memory file's small pages huge ones, which few systems give at a page's first byte
/// (`shmem_enabled`). Of nothing there is nothing to make (EINVAL), and of all there is much to
/// copy: so one small page of each is touched first.
void collapse(std::byte* data, std::uint64_t size_bytes) {
  for (std::uint64_t at = 0; at < size_bytes; at += kHugePage) {
    if (!populate(data + at, kSmallPage)) return;
  }
  madvise(data, size_bytes, MADV_COLLAPSE);
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

std::string_view to_string(MemoryKind kind) noexcept {
  switch (kind) {
    case MemoryKind::kShared: return "shared";
    case MemoryKind::kPrivate: return "private";
    case MemoryKind::kForeign: return "foreign";
    case MemoryKind::kDevice: return "device";
  }
  return "?";
}

Result<Memory> Memory::create(MemoryKind kind, std::uint64_t size_bytes, Touch touch) {
  if (size_bytes == 0) return fail(Code::kInvalidArgument, "an arena of no bytes");
  if (kind == MemoryKind::kDevice || kind == MemoryKind::kForeign) {
    return fail(Code::kUnimplemented, fmt::format("{} memory cannot be made", to_string(kind)));
  }
  Memory memory;
  memory.kind_ = kind;
  const std::uint64_t unit = size_bytes >= kHugePage ? kHugePage : kSmallPage;
  const std::uint64_t whole = (size_bytes + unit - 1) / unit * unit;
  for (const bool huge : {true, false}) {
    if (huge && (unit != kHugePage || touch == Touch::kLater)) continue;
    int flags = huge ? MAP_HUGETLB | kHugePageBits : 0;
    if (kind == MemoryKind::kShared) {
      auto fd = make_file(whole, huge);
      if (!fd && huge) continue;
      if (!fd) return std::unexpected(fd.error());
      memory.fd_ = std::move(*fd);
      flags = MAP_SHARED;
    } else {
      flags |= MAP_PRIVATE | MAP_ANONYMOUS | (touch == Touch::kLater ? MAP_NORESERVE : 0);
    }
    std::byte* data = map_evenly(whole, PROT_READ | PROT_WRITE, flags, memory.fd_.get());
    if (data == nullptr) {
      if (huge) continue;
      return failed("memory", whole);
    }
    memory.data_ = data;
    memory.size_bytes_ = whole;
    if (touch == Touch::kLater) return memory;
    madvise(data, whole, MADV_HUGEPAGE);
    if (kind == MemoryKind::kShared && unit == kHugePage && !huge) collapse(data, whole);
    if (populate(data, whole)) return memory;
    if (!huge) return failed("memory", whole);
    munmap(std::exchange(memory.data_, nullptr), whole);
  }
  return failed("memory", whole);
}

Memory Memory::adopt(std::span<std::byte> memory) {
  Memory made;
  made.data_ = memory.data();
  made.size_bytes_ = memory.size();
  return made;
}

Result<Memory> Memory::map(int fd, std::uint64_t size_bytes, bool writable) {
  struct stat status{};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (fstat(fd, &status) != 0 || seals < 0 || (seals & F_SEAL_SHRINK) == 0 || size_bytes == 0 ||
      static_cast<std::uint64_t>(status.st_size) != size_bytes) {
    return fail(Code::kInvalidArgument,
                fmt::format("a peer's memory is not a sealed memory file of {} bytes", size_bytes));
  }
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  constexpr std::uint64_t kStatUnit = 512;  // of st_blocks
  const bool whole = static_cast<std::uint64_t>(status.st_blocks) * kStatUnit >= size_bytes;
  std::byte* data = map_evenly(size_bytes, protection, MAP_SHARED | (whole ? MAP_POPULATE : 0), fd);
  if (data == nullptr) return failed("a peer's memory", size_bytes);
  madvise(data, size_bytes, MADV_HUGEPAGE);
  Memory memory;
  memory.data_ = data;
  memory.size_bytes_ = size_bytes;
  memory.kind_ = MemoryKind::kShared;
  return memory;
}

Memory::~Memory() {
  if (data_ != nullptr && kind_ != MemoryKind::kForeign) munmap(data_, size_bytes_);
}

void Memory::swap(Memory& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  std::swap(kind_, other.kind_);
  std::swap(fd_, other.fd_);
}

}  // namespace penstock::transfer
