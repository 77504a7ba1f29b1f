#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "sim/simulation.h"

namespace penstock::cli {

/// A simulated run and what it cost to make.
struct SimulatedRun {
  sim::Report report;
  double wall_s = 0;                 // of the run, without reading the trace
  std::uint64_t peak_rss_bytes = 0;  // of this process so far
};

/// {"runs":[...]}, one line without its end; keys are described in cli/README.md.
std::string simulated_json(std::span<const SimulatedRun> runs, const sim::Setup& setup);
/// The fleet and its load in a few words: "8 workers, arrivals at 1x".
std::string described(const sim::Setup& setup);
/// A row a run, for people.
std::string simulated_table(std::span<const SimulatedRun> runs, const sim::Setup& setup);

}  // namespace penstock::cli
