#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/simulate_report.h"

namespace penstock::cli {

/// One self-contained HTML page (inline SVG, no script, nothing loaded) that compares runs: TTFT
/// and TPOT as cumulative shares, throughput and queue over time, and how busy each worker was. The
/// runs' reports need their series (sim::Setup::series).
std::string simulated_plot(std::span<const SimulatedRun> runs, const sim::Setup& setup,
                           std::string_view trace);

}  // namespace penstock::cli
