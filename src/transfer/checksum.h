#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace penstock::transfer {

/// XXH3-64 (seed 0) of a part of a block.
///
/// Why this one: taken of the very registers that a copy stores, it costs what memory does not
/// cost already on any x86 with AVX2 (CRC-32C by the CPU's instruction is a third of its speed on
/// older ones); 64 bits leave no chance to accidents; and other languages have it. It guards
/// against accidents, not against a forger: peers are authenticated instead.
using Checksum = std::uint64_t;

/// Thread: any.
[[nodiscard]] Checksum checksum(const std::byte* data, std::size_t size_bytes) noexcept;

/// How a copy stores.
enum class Stores : std::uint8_t {
  kCached,     // into the cache: somebody reads it right away, or it is small
  kStreaming,  // past the cache, without reading the destination first: large or scattered
};

/// Copies `size_bytes` from `from` to `to` and returns the checksum of the bytes it stored, even if
/// another process changes the source meanwhile: each word of it is read once. Ranges do not
/// overlap. After streaming stores call `fence_stores` before another thread is told.
[[nodiscard]] Checksum copy_and_sum(std::byte* to, const std::byte* from, std::size_t size_bytes,
                                    Stores stores) noexcept;

/// The same of what comes in pieces, from its beginning on.
class CopySum final {
 public:
  static constexpr std::size_t kStepBytes = 1024;

  CopySum(std::byte* to, std::size_t size_bytes, Stores stores) noexcept;
  /// The next piece, no more than is left; a multiple of kStepBytes unless it is the last.
  void add(const std::byte* from, std::size_t bytes) noexcept;
  /// Of all of them: they are there.
  [[nodiscard]] Checksum sum() noexcept;

 private:
  std::byte* to_;  // where the next piece goes
  std::size_t size_bytes_;
  Stores stores_;
  std::size_t steps_left_ = 0;  // to come before the end
  std::size_t end_bytes_ = 0;   // in `end_`
  std::array<std::uint64_t, 8> lanes_;
  std::array<std::byte, kStepBytes + 64> end_;  // looked at more than once
};

/// Orders streaming stores before what follows.
void fence_stores() noexcept;

/// Asks the CPU to begin reading the first `size_bytes` at `data` (what is worth asking for).
void prefetch(const std::byte* data, std::size_t size_bytes) noexcept;

}  // namespace penstock::transfer
