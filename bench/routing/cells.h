#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sim/simulation.h"

namespace penstock::bench {

/// One workload on one fleet.
struct Cell {
  std::string_view name;
  std::string_view trace;  // "conversation", "azure", or what sim::generate() takes
  sim::Setup setup;        // its policy and seed are set for each run
};

/// Workloads whose results with other projects' policies are published.
[[nodiscard]] std::span<const Cell> published_cells();
/// The scoreboard: unsaturated and saturated points, one engine clock for all.
[[nodiscard]] std::span<const Cell> scoreboard_cells();

}  // namespace penstock::bench
