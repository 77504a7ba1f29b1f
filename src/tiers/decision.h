#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace penstock::tiers {

/// Where a block lies, cheapest first. An object store and peers' memory get their place here.
enum class Tier : std::uint8_t { kHost, kDisk };
inline constexpr std::size_t kTiers = 2;

/// What it costs to have a block, as measured lately, in ns.
struct LoadCosts {
  double host_ns = 0;        // a block from host memory
  double disk_ns = 0;        // a block from disk, once it is its turn; infinite: it cannot be read
  double disk_queue_ns = 0;  // until that
  double recompute_ns = 0;   // a block computed anew
};

struct LoadChoice {
  std::uint32_t blocks = 0;    // of the prefix's beginning to load; 0: recompute all of it
  Tier slowest = Tier::kHost;  // that any of them lies in
  double load_ns = 0;          // predicted for these
  double recompute_ns = 0;     // what these would have cost
};

[[nodiscard]] std::string_view to_string(Tier tier) noexcept;

/// How much of a prefix, whose blocks lie in `tiers` in this order, is cheaper to load than to
/// compute: the beginning that saves most. Pure.
[[nodiscard]] LoadChoice choose_load(std::span<const Tier> tiers, const LoadCosts& costs) noexcept;

}  // namespace penstock::tiers
