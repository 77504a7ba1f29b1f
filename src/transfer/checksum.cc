#include "transfer/checksum.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace penstock::transfer {
namespace {

// Memory shared with another process or thread: what it does meanwhile is found by the sum, so the
// thread sanitizer need not look.
#define PENSTOCK_RACY __attribute__((no_sanitize("thread")))

/// Copies reading every byte once.
PENSTOCK_RACY void copy_once(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  std::size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    std::uint64_t word = 0;
    __builtin_memcpy(&word, from + at, 8);
    asm volatile("" : "+r"(word));
    __builtin_memcpy(to + at, &word, 8);
  }
  for (; at < size; ++at) to[at] = static_cast<const volatile std::byte*>(from)[at];
}

#if defined(__x86_64__)

// XXH3's loop for long inputs, with a store in it. Blocks of 16 stripes; each stripe of 64 bytes is
// mixed into eight lanes under its own place in the secret, and after a block the lanes are
// scrambled. The last stripe ends with the input and so overlaps the one before.
constexpr std::size_t kStripe = 64;
constexpr std::size_t kStripes = (sizeof XXH3_kSecret - kStripe) / 8;
constexpr std::size_t kBlock = kStripes * kStripe;
constexpr std::size_t kShortMax = 240;  // up to here XXH3 is another function
constexpr std::size_t kAhead = 1024;    // bytes: the CPU's own prefetching ends with each page
constexpr std::uint64_t kPrime32 = 0x9e3779b1;

#define PENSTOCK_AVX2 __attribute__((target("avx2"))) PENSTOCK_RACY

struct Lanes {
  __m256i low;
  __m256i high;
};

using Words = std::array<std::uint64_t, 8>;

PENSTOCK_AVX2 inline Lanes load(const Words& words) noexcept {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.data())),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words.data() + 4))};
}
PENSTOCK_AVX2 inline void store(const Lanes& lanes, Words& words) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words.data()), lanes.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words.data() + 4), lanes.high);
}

PENSTOCK_AVX2 inline __m256i mix(__m256i lanes, __m256i data,
                                 const unsigned char* secret) noexcept {
  const __m256i keyed =
      _mm256_xor_si256(data, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(secret)));
  const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
  const __m256i swapped = _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
  return _mm256_add_epi64(product, _mm256_add_epi64(lanes, swapped));
}

PENSTOCK_AVX2 inline __m256i scramble(__m256i lanes, const unsigned char* secret) noexcept {
  const __m256i prime = _mm256_set1_epi64x(kPrime32);
  lanes = _mm256_xor_si256(lanes, _mm256_srli_epi64(lanes, 47));
  lanes = _mm256_xor_si256(lanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(secret)));
  const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(lanes, 32), prime);
  return _mm256_add_epi64(_mm256_mul_epu32(lanes, prime), _mm256_slli_epi64(high, 32));
}

template <bool kCopy, bool kStream>
PENSTOCK_AVX2 inline void stripe(Lanes& lanes, std::byte* to, const std::byte* from,
                                 const unsigned char* secret) noexcept {
  __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
  // The compiler may not read them again: what is summed is what is stored.
  asm volatile("" : "+x"(low), "+x"(high));
  if constexpr (kCopy && kStream) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 32), high);
  } else if constexpr (kCopy) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), high);
  }
  lanes.low = mix(lanes.low, low, secret);
  lanes.high = mix(lanes.high, high, secret + 32);
}

template <bool kCopy, bool kStream, bool kCold = true>
PENSTOCK_AVX2 inline void block(Lanes& lanes, std::byte* to, const std::byte* from) noexcept {
  for (std::size_t i = 0; i < kStripes; ++i) {
    if constexpr (kCold) {
      _mm_prefetch(reinterpret_cast<const char*>(from + i * kStripe + kAhead), _MM_HINT_T0);
    }
    stripe<kCopy, kStream>(lanes, to + (kCopy ? i * kStripe : 0), from + i * kStripe,
                           XXH3_kSecret + 8 * i);
  }
  constexpr std::size_t kAt = sizeof XXH3_kSecret - kStripe;
  lanes.low = scramble(lanes.low, XXH3_kSecret + kAt);
  lanes.high = scramble(lanes.high, XXH3_kSecret + kAt + 32);
}

std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t secret_word(std::size_t at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, XXH3_kSecret + at, sizeof word);
  return word;
}

PENSTOCK_AVX2 Checksum merge(const Lanes& lanes, std::size_t size) noexcept {
  Words words;
  store(lanes, words);
  std::uint64_t sum = size * 0x9e3779b185ebca87ULL;
  for (std::size_t i = 0; i < 4; ++i) {
    sum +=
        fold(words[2 * i] ^ secret_word(11 + 16 * i), words[2 * i + 1] ^ secret_word(19 + 16 * i));
  }
  sum ^= sum >> 37;
  sum *= 0x165667919e3779f9ULL;
  return sum ^ (sum >> 32);
}

PENSTOCK_AVX2 inline Lanes first_lanes() noexcept {
  return {_mm256_set_epi64x(0x165667b19e3779f9, static_cast<long long>(0xc2b2ae3d27d4eb4f),
                            static_cast<long long>(0x9e3779b185ebca87), 0xc2b2ae3d),
          _mm256_set_epi64x(0x9e3779b1, 0x27d4eb2f165667c5, 0x85ebca77,
                            static_cast<long long>(0x85ebca77c2b2ae63))};
}

/// How many blocks are mixed in before the end, whose stripes overlap: all but the last one, or but
/// the last two if the last has less than a stripe.
std::size_t blocks_before_end(std::size_t size) noexcept {
  const std::size_t blocks = (size - 1) / kBlock;
  return blocks > 0 && size - blocks * kBlock < kStripe ? blocks - 1 : blocks;
}

/// Mixes in what `blocks_before_end` leaves.
PENSTOCK_AVX2 inline Checksum end_sum(Lanes lanes, const std::byte* rest, std::size_t left,
                                      std::size_t size) noexcept {
  if (left > kBlock) {
    block<false, false, false>(lanes, nullptr, rest);
    rest += kBlock;
    left -= kBlock;
  }
  for (std::size_t i = 0; i < (left - 1) / kStripe; ++i) {
    stripe<false, false>(lanes, nullptr, rest + i * kStripe, XXH3_kSecret + 8 * i);
  }
  stripe<false, false>(lanes, nullptr, rest + left - kStripe,
                       XXH3_kSecret + sizeof XXH3_kSecret - kStripe - 7);
  return merge(lanes, size);
}

PENSTOCK_AVX2 Checksum long_sum(const std::byte* data, std::size_t size) noexcept {
  Lanes lanes = first_lanes();
  const std::size_t blocks = blocks_before_end(size);
  for (std::size_t i = 0; i < blocks; ++i) block<false, false>(lanes, nullptr, data + i * kBlock);
  return end_sum(lanes, data + blocks * kBlock, size - blocks * kBlock, size);
}

PENSTOCK_AVX2 void begin_copy(Words& words) noexcept { store(first_lanes(), words); }
template <bool kStream>
PENSTOCK_AVX2 void copy_blocks(Words& words, std::byte* to, const std::byte* from,
                               std::size_t blocks) noexcept {
  Lanes lanes = load(words);
  for (std::size_t i = 0; i < blocks; ++i) {
    block<true, kStream>(lanes, to + i * kBlock, from + i * kBlock);
  }
  store(lanes, words);
}
PENSTOCK_AVX2 void stream_end(std::byte* to, const std::byte* end, std::size_t size) noexcept {
  std::size_t at = 0;
  for (; at + 32 <= size; at += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(end + at)));
  }
  copy_once(to + at, end + at, size - at);
}
PENSTOCK_AVX2 Checksum end_copy(const Words& words, const std::byte* end, std::size_t left,
                                std::size_t size) noexcept {
  return end_sum(load(words), end, left, size);
}

const bool kHaveAvx2 = __builtin_cpu_supports("avx2") != 0;

bool aligned(const std::byte* at) noexcept {
  return reinterpret_cast<std::uintptr_t>(at) % 32 == 0;
}
bool is_long(std::size_t size_bytes) noexcept { return kHaveAvx2 && size_bytes > kShortMax; }

#endif

}  // namespace

Checksum checksum(const std::byte* data, std::size_t size_bytes) noexcept {
#if defined(__x86_64__)
  if (is_long(size_bytes)) return long_sum(data, size_bytes);
#endif
  return XXH3_64bits(data, size_bytes);
}

CopySum::CopySum(std::byte* to, std::size_t size_bytes, Stores stores) noexcept
    : to_(to), size_bytes_(size_bytes), stores_(stores) {
#if defined(__x86_64__)
  if (!is_long(size_bytes)) return;
  if (!aligned(to)) stores_ = Stores::kCached;
  steps_left_ = blocks_before_end(size_bytes);
  begin_copy(lanes_);
#endif
}

void CopySum::add(const std::byte* from, std::size_t bytes) noexcept {
#if defined(__x86_64__)
  static_assert(kBlock == kStepBytes);
  if (is_long(size_bytes_)) {
    const std::size_t steps = std::min(bytes / kBlock, steps_left_);
    const auto copy = stores_ == Stores::kStreaming ? copy_blocks<true> : copy_blocks<false>;
    copy(lanes_, to_, from, steps);
    steps_left_ -= steps;
    to_ += steps * kBlock;
    const std::size_t rest = bytes - steps * kBlock;
    CHECK_LE(rest, steps_left_ > 0 ? 0 : end_.size() - end_bytes_);
    copy_once(end_.data() + end_bytes_, from + steps * kBlock, rest);
    end_bytes_ += rest;
    return;
  }
#endif
  copy_once(to_, from, bytes);
  to_ += bytes;
}

Checksum CopySum::sum() noexcept {
#if defined(__x86_64__)
  if (is_long(size_bytes_)) {
    (stores_ == Stores::kStreaming ? stream_end : copy_once)(to_, end_.data(), end_bytes_);
    return end_copy(lanes_, end_.data(), end_bytes_, size_bytes_);
  }
#endif
  return XXH3_64bits(to_ - size_bytes_, size_bytes_);
}

Checksum copy_and_sum(std::byte* to, const std::byte* from, std::size_t size_bytes,
                      Stores stores) noexcept {
  CopySum copy(to, size_bytes, stores);
  copy.add(from, size_bytes);
  return copy.sum();
}

void fence_stores() noexcept {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void prefetch(const std::byte* data, std::size_t size_bytes) noexcept {
  constexpr std::size_t kWorthAsking = 1024;  // from there on the copy asks for itself
  for (std::size_t at = 0; at < std::min(size_bytes, kWorthAsking); at += 64) {
    __builtin_prefetch(data + at);
  }
}

}  // namespace penstock::transfer
