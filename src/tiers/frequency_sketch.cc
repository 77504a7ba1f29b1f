#include "tiers/frequency_sketch.h"

#include <algorithm>
#include <bit>

#include "base/rng.h"

namespace penstock::tiers {
namespace {

constexpr std::uint64_t kWidthMin = 1024;
constexpr std::uint64_t kWidthMax = 1ULL << 24;

}  // namespace

FrequencySketch::FrequencySketch(std::uint64_t blocks)
    : width_(std::bit_ceil(std::clamp(2 * blocks, kWidthMin, kWidthMax))),
      counts_(width_ * kRows) {}

std::uint64_t FrequencySketch::at(const Key& key, std::uint32_t row) const noexcept {
  return row * width_ + (mix64(key.low + row * key.high) & (width_ - 1));
}

void FrequencySketch::add(const Key& key) noexcept {
  const std::uint32_t least = estimate(key);
  if (least < kCountMax) {
    for (std::uint32_t row = 0; row < kRows; ++row) {
      std::uint8_t& count = counts_[at(key, row)];
      if (count == least) ++count;  // the others already count somebody else as well
    }
  }
  if (++added_ < width_ / kCountersAnAsking) return;
  added_ = 0;
  for (std::uint8_t& count : counts_) count /= 2;
}

std::uint32_t FrequencySketch::estimate(const Key& key) const noexcept {
  std::uint8_t least = kCountMax;
  for (std::uint32_t row = 0; row < kRows; ++row) least = std::min(least, counts_[at(key, row)]);
  return least;
}

}  // namespace penstock::tiers
