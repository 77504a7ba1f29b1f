#pragma once

#include <cmath>
#include <cstdint>

namespace penstock {

/// SplitMix64's finaliser: a bijection in which every bit of the result depends on every bit of
/// `x`.
[[nodiscard]] constexpr std::uint64_t mix64(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// Where randomness comes from: SplitMix64. The same seed gives the same numbers on every machine
/// and library, which the distributions of <random> do not promise. Not for secrets. A value; not
/// thread safe.
class Rng final {
 public:
  constexpr explicit Rng(std::uint64_t seed) noexcept : state_(seed) {}

  constexpr std::uint64_t next() noexcept { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }

  /// In [0, 1).
  constexpr double fraction() noexcept { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

  /// In [0, n), n >= 1; off a uniform draw by less than n / 2^32.
  constexpr std::uint32_t below(std::uint32_t n) noexcept {
    return static_cast<std::uint32_t>(((next() >> 32) * n) >> 32);
  }

  /// Exponential with this mean: the gaps of a Poisson process.
  double exponential(double mean) noexcept { return -mean * std::log1p(-fraction()); }

 private:
  std::uint64_t state_;
};

}  // namespace penstock
