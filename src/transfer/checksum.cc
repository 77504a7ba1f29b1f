#include "transfer/checksum.h"

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock::transfer {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // Castagnoli's, bits reversed

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kTable = make_table();

// Memory shared with another process: what it does meanwhile is found by the sum, so the thread
// sanitizer need not look.
#define PENSTOCK_RACY __attribute__((no_sanitize("thread")))

template <bool kCopy>
PENSTOCK_RACY std::uint32_t portable(std::byte* to, const std::byte* from, std::size_t size,
                                     std::uint32_t crc) noexcept {
  for (std::size_t i = 0; i < size; ++i) {
    const auto byte = static_cast<const volatile std::byte*>(from)[i];
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<std::uint32_t>(byte)) & 0xff];
    if constexpr (kCopy) to[i] = byte;
  }
  return crc;
}

#if defined(__x86_64__)

// A piece is three lanes of kLane bytes that are summed side by side (the instruction takes three
// cycles but one may start every cycle), and a last line that goes through the joined sum.
constexpr std::size_t kLine = 64;
constexpr std::size_t kLane = 21 * kLine;
constexpr std::size_t kPiece = 3 * kLane + kLine;
static_assert(kPiece == 4096);

/// x^(8 * bytes - 33) modulo the polynomial, bits reversed: multiplying a sum by it and reducing
/// the 64 bit product with the CRC instruction moves the sum over `bytes` zeros.
constexpr std::uint64_t shift_factor(std::size_t bytes) {
  std::uint32_t power = 0x80000000;  // x^0
  for (std::size_t bit = 0; bit < 8 * bytes - 33; ++bit) {
    power = (power >> 1) ^ ((power & 1) != 0 ? kPolynomial : 0);
  }
  return power;
}
constexpr std::uint64_t kOverOneLane = shift_factor(kLane);
constexpr std::uint64_t kOverTwoLanes = shift_factor(2 * kLane);

#define PENSTOCK_CRC_TARGET __attribute__((target("sse4.2,pclmul"))) PENSTOCK_RACY

PENSTOCK_CRC_TARGET inline std::uint64_t shift(std::uint64_t crc, std::uint64_t factor) noexcept {
  const __m128i product =
      _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(crc)),
                           _mm_cvtsi64_si128(static_cast<long long>(factor)), 0);
  return _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(product)));
}

template <bool kCopy, bool kStream>
PENSTOCK_CRC_TARGET inline std::uint64_t word(std::byte* to, const std::byte* from,
                                              std::uint64_t crc) noexcept {
  // volatile: read once, so that what is summed is what is stored.
  const std::uint64_t value = *reinterpret_cast<const volatile std::uint64_t*>(from);
  if constexpr (kCopy && kStream) {
    _mm_stream_si64(reinterpret_cast<long long*>(to), static_cast<long long>(value));
  } else if constexpr (kCopy) {
    *reinterpret_cast<std::uint64_t*>(to) = value;
  }
  return _mm_crc32_u64(crc, value);
}

template <bool kCopy, bool kStream>
PENSTOCK_CRC_TARGET std::uint32_t lanes(std::byte* to, const std::byte* from, std::size_t size,
                                        std::uint32_t before) noexcept {
  std::uint64_t crc = before;
  for (; size >= kPiece; size -= kPiece, from += kPiece, to += kCopy ? kPiece : 0) {
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (std::size_t i = 0; i < kLane; i += kLine) {
#pragma GCC unroll 8
      for (std::size_t j = i; j < i + kLine; j += 8) {
        crc = word<kCopy, kStream>(to + (kCopy ? j : 0), from + j, crc);
        second = word<kCopy, kStream>(to + (kCopy ? kLane + j : 0), from + kLane + j, second);
        third = word<kCopy, kStream>(to + (kCopy ? 2 * kLane + j : 0), from + 2 * kLane + j, third);
      }
    }
    crc = shift(crc, kOverTwoLanes) ^ shift(second, kOverOneLane) ^ third;
    for (std::size_t j = 3 * kLane; j < kPiece; j += 8) {
      crc = word<kCopy, kStream>(to + (kCopy ? j : 0), from + j, crc);
    }
  }
  for (; size >= 8; size -= 8, from += 8, to += kCopy ? 8 : 0) {
    crc = word<kCopy, kStream>(to, from, crc);
  }
  return portable<kCopy>(to, from, size, static_cast<std::uint32_t>(crc));
}

const bool kHaveInstructions =
    __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;

#endif

}  // namespace

std::uint32_t crc32c(const std::byte* data, std::size_t size_bytes, std::uint32_t before) noexcept {
#if defined(__x86_64__)
  if (kHaveInstructions) return ~lanes<false, false>(nullptr, data, size_bytes, ~before);
#endif
  return ~portable<false>(nullptr, data, size_bytes, ~before);
}

std::uint32_t copy_crc32c(std::byte* to, const std::byte* from, std::size_t size_bytes,
                          Stores stores, std::uint32_t before) noexcept {
#if defined(__x86_64__)
  if (kHaveInstructions && stores == Stores::kStreaming) {
    return ~lanes<true, true>(to, from, size_bytes, ~before);
  }
  if (kHaveInstructions) return ~lanes<true, false>(to, from, size_bytes, ~before);
#endif
  return ~portable<true>(to, from, size_bytes, ~before);
}

void fence_stores() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void prefetch(const std::byte* data, std::size_t size_bytes) noexcept {
  constexpr std::size_t kWorthAsking = 1024;  // the CPU's own prefetcher has understood by then
  for (std::size_t at = 0; at < std::min(size_bytes, kWorthAsking); at += 64) {
    __builtin_prefetch(data + at);
  }
}

}  // namespace penstock::transfer
