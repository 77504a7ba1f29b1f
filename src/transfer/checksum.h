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

/// The checksum of memory that is being filled from its beginning on: taken of each piece when it
/// has come, while that is still in the cache.
class FillingSum final {
 public:
  FillingSum() noexcept : FillingSum(nullptr, 0) {}
  FillingSum(const std::byte* data, std::size_t size_bytes) noexcept;
  /// So many bytes are there now, and stay as they are.
  void filled(std::size_t bytes) noexcept;
  /// Of all of them: they are there.
  [[nodiscard]] Checksum sum() noexcept;

 private:
  const std::byte* data_;
  std::size_t size_bytes_;
  std::size_t blocks_ = 0;  // of XXH3's, in `lanes_`
  alignas(32) std::array<std::uint64_t, 8> lanes_;
};

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

/// Orders streaming stores before what follows.
void fence_stores() noexcept;

/// Asks the CPU to begin reading the first `size_bytes` at `data` (what is worth asking for).
void prefetch(const std::byte* data, std::size_t size_bytes) noexcept;

}  // namespace penstock::transfer
