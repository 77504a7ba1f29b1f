#include "tiers/decision.h"

namespace penstock::tiers {

std::string_view to_string(Tier tier) noexcept { return tier == Tier::kHost ? "host" : "disk"; }

LoadChoice choose_load(std::span<const Tier> tiers, const LoadCosts& costs) noexcept {
  LoadChoice best;
  double load_ns = 0;
  bool queued = false;
  for (std::size_t i = 0; i < tiers.size(); ++i) {
    if (tiers[i] == Tier::kDisk) {
      if (!queued) load_ns += costs.disk_queue_ns;
      queued = true;
      load_ns += costs.disk_ns;
    } else {
      load_ns += costs.host_ns;
    }
    const double recompute_ns = costs.recompute_ns * static_cast<double>(i + 1);
    if (recompute_ns - load_ns > best.recompute_ns - best.load_ns) {
      best = {.blocks = static_cast<std::uint32_t>(i + 1),
              .slowest = queued ? Tier::kDisk : Tier::kHost,
              .load_ns = load_ns,
              .recompute_ns = recompute_ns};
    }
  }
  return best;
}

}  // namespace penstock::tiers
