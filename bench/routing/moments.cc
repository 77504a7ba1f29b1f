#include "moments.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include "../must.h"
#include "sim/simulation.h"

namespace penstock::bench {
namespace {

/// The trace's times are rounded to that.
constexpr std::chrono::seconds kRounding{3};

std::string cell(const sim::Trace& trace, sim::Setup setup, std::string_view policy) {
  setup.policy = policy;
  const sim::Report report = must(sim::simulate(trace, setup));
  return fmt::format("{:.1f} / {:.2f}", report.ttft_ms.mean, report.tpot_ms.mean);
}

}  // namespace

void print_moments(const sim::Trace& conversation) {
  const sim::Trace spread = sim::spread_arrivals(conversation, kRounding, 1);
  fmt::print(
      "\n| fleet | mark | `latency`, together | one at a time | dynamo | round robin | spread: "
      "`latency` | dynamo | round robin |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  struct Fleet {
    std::string_view name, mark;
    sim::Setup setup;
  };
  const Fleet fleets[] = {{"conv 8w", "230 / 7.7", {.workers = 8}},
                          {"conv 4w", "390 / 12.6", {.workers = 4}},
                          {"conv 4w 2x", "425 / 23.2", {.workers = 4, .speed = 2}}};
  for (const Fleet& fleet : fleets) {
    sim::Setup alone = fleet.setup;
    alone.one_at_a_time = true;
    fmt::print("| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", fleet.name, fleet.mark,
               cell(conversation, fleet.setup, "latency"), cell(conversation, alone, "latency"),
               cell(conversation, fleet.setup, "dynamo"),
               cell(conversation, fleet.setup, "round-robin"), cell(spread, fleet.setup, "latency"),
               cell(spread, fleet.setup, "dynamo"), cell(spread, fleet.setup, "round-robin"));
    std::fflush(stdout);
  }
}

}  // namespace penstock::bench
