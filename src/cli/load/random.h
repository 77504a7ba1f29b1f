#pragma once

#include <cstdint>

namespace penstock::cli::load {

/// SplitMix64's finalizer: a bijection, so distinct inputs give distinct outputs.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// SplitMix64. The same seed gives the same numbers on every machine and library, which the
/// distributions of <random> do not promise. A value; not thread safe.
class Random final {
 public:
  constexpr explicit Random(std::uint64_t seed) noexcept : state_(seed) {}

  constexpr std::uint64_t next() noexcept { return mix(state_ += 0x9e3779b97f4a7c15ULL); }

  /// In [0, 1).
  constexpr double next_fraction() noexcept {
    return static_cast<double>(next() >> 11) * 0x1.0p-53;
  }

 private:
  std::uint64_t state_;
};

}  // namespace penstock::cli::load
