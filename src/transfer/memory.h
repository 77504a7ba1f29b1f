#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace penstock::transfer {

/// Closes a file descriptor at its end. Move only.
class Fd final {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Who can reach a piece of memory, which decides the ways blocks can leave it.
enum class MemoryKind : std::uint8_t {
  kShared,   // ours, a memfd: peers on this host map it
  kPrivate,  // ours, anonymous: the quickest destination; peers need CMA or TCP
  kForeign,  // the caller's: as kPrivate, and slow, for its pages are what they are
  kDevice,   // a GPU's, reached through a plugin. None is built yet: refused
};
[[nodiscard]] std::string_view to_string(MemoryKind kind) noexcept;

/// When a piece of memory takes up the pages that it is made of.
enum class Touch : std::uint8_t {
  kAtOnce,  // so that no page fault waits in a transfer
  kLater,   // each with the first byte written to it: an arena that may never fill up
};

/// A piece of memory that is mapped once and stays where it is. Move only; thread: any.
class Memory final {
 public:
  /// Memory of ours. That of kAtOnce is of huge pages, if it is as long as one and the system
  /// grants them: from its pool if that has as many free, else transparent ones.
  static Result<Memory> create(MemoryKind kind, std::uint64_t size_bytes,
                               Touch touch = Touch::kAtOnce);
  /// Memory that somebody else owns and keeps alive as long as this.
  static Memory adopt(std::span<std::byte> memory);
  /// A peer's memfd, which the caller may close after; fails unless it has `size_bytes` and can no
  /// longer shrink, since a shorter file would end the process that reads it. Pages that it has not
  /// got yet are not made by mapping it.
  static Result<Memory> map(int fd, std::uint64_t size_bytes, bool writable);

  Memory() = default;
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory();

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  [[nodiscard]] MemoryKind kind() const noexcept { return kind_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }  // -1 unless kShared and ours

 private:
  void swap(Memory& other) noexcept;

  std::byte* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
  MemoryKind kind_ = MemoryKind::kForeign;
  Fd fd_;
};

}  // namespace penstock::transfer
