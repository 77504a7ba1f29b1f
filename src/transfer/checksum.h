#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock::transfer {

/// CRC-32C (Castagnoli) of `size_bytes` at `data`; `before` is the sum of what precedes them, so
/// that crc32c(b, crc32c(a)) is the sum of a and b together. Thread: any.
///
/// Why this sum: it can be taken of the very registers that a copy stores, in the same pass, at
/// the price of the copy alone (three lanes of the CPU's own instruction, 8 bytes a cycle), which
/// XXH3 cannot; it finds every burst of up to 32 bits; and disks, gateways and other languages
/// know it. It guards against accidents, not against a forger: peers are authenticated instead.
[[nodiscard]] std::uint32_t crc32c(const std::byte* data, std::size_t size_bytes,
                                   std::uint32_t before = 0) noexcept;

/// How a copy stores.
enum class Stores : std::uint8_t {
  kCached,     // into the cache: somebody reads it right away, or it is small
  kStreaming,  // past the cache, without reading the destination first: large or scattered
};

/// Copies `size_bytes` from `from` to `to` and returns the CRC-32C of the bytes it stored, even if
/// another process changes the source meanwhile: each word is read once. Ranges do not overlap.
/// After streaming stores call `fence_stores` before another thread is told.
[[nodiscard]] std::uint32_t copy_crc32c(std::byte* to, const std::byte* from,
                                        std::size_t size_bytes, Stores stores,
                                        std::uint32_t before = 0) noexcept;

/// Orders streaming stores before what follows.
void fence_stores() noexcept;

/// Asks the CPU to begin reading the first `size_bytes` at `data` (what is worth asking for).
void prefetch(const std::byte* data, std::size_t size_bytes) noexcept;

}  // namespace penstock::transfer
