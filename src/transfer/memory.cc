#include "transfer/memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kHugePage = 2 << 20;
constexpr std::uint64_t kSmallPage = 4 << 10;

std::unexpected<Error> failed(std::string_view what, std::uint64_t size_bytes) {
  return fail(Code::kUnavailable,
              fmt::format("{} of {} bytes: {}", what, size_bytes, errno_text(errno)));
}

/// A memfd whose size is fixed for good.
Result<Fd> make_file(std::uint64_t size_bytes, bool huge) {
  Fd fd(
      memfd_create("penstock-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0U)));
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return failed("a memory file", size_bytes);
  }
  return fd;
}

/// What a request for transparent huge pages gets: the system's answer, not ours.
Pages transparent_pages(MemoryKind kind) {
  const std::string folder = "/sys/kernel/mm/transparent_hugepage/";
  std::ifstream file(folder + (kind == MemoryKind::kShared ? "shmem_enabled" : "enabled"));
  std::string line;
  std::getline(file, line);
  const bool refused = line.empty() || line.find("[never]") != std::string::npos ||
                       line.find("[deny]") != std::string::npos;
  return refused ? Pages::kSmall : Pages::kTransparentHuge;
}

/// Writes to each page, so that it is there; or says that the system does not grant so many.
bool populate(void* data, std::uint64_t size_bytes) {
  return madvise(data, size_bytes, MADV_POPULATE_WRITE) == 0;
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

std::string_view to_string(Pages pages) noexcept {
  switch (pages) {
    case Pages::kSmall: return "small";
    case Pages::kTransparentHuge: return "transparent huge";
    case Pages::kHuge: return "huge";
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
    int flags = huge ? MAP_HUGETLB : 0;
    if (kind == MemoryKind::kShared) {
      auto fd = make_file(whole, huge);
      if (!fd && huge) continue;
      if (!fd) return std::unexpected(fd.error());
      memory.fd_ = std::move(*fd);
      flags = MAP_SHARED;
    } else {
      flags |= MAP_PRIVATE | MAP_ANONYMOUS | (touch == Touch::kLater ? MAP_NORESERVE : 0);
    }
    void* data = mmap(nullptr, whole, PROT_READ | PROT_WRITE, flags, memory.fd_.get(), 0);
    if (data == MAP_FAILED) {
      if (huge) continue;
      return failed("memory", whole);
    }
    memory.data_ = static_cast<std::byte*>(data);
    memory.size_bytes_ = whole;
    if (touch == Touch::kAtOnce) madvise(data, whole, MADV_HUGEPAGE);
    memory.pages_ = huge ? Pages::kHuge : transparent_pages(kind);
    if (touch == Touch::kLater || populate(data, whole)) return memory;
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
  void* data =
      mmap(nullptr, size_bytes, protection, MAP_SHARED | (whole ? MAP_POPULATE : 0), fd, 0);
  if (data == MAP_FAILED) return failed("a peer's memory", size_bytes);
  madvise(data, size_bytes, MADV_HUGEPAGE);
  Memory memory;
  memory.data_ = static_cast<std::byte*>(data);
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
  std::swap(pages_, other.pages_);
  std::swap(fd_, other.fd_);
}

}  // namespace penstock::transfer
