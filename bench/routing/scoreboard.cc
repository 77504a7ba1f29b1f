// All policies on all cells, as markdown; see --help.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../must.h"
#include "cells.h"
#include "moments.h"
#include "oracle.h"
#include "router/policy.h"
#include "sim/generators.h"
#include "sim/trace_readers.h"
#include "splitting.h"

namespace penstock::bench {
namespace {

struct Flags {
  std::string data = "../shared/data";
  std::string only;
  std::vector<std::string> policies;
  std::uint32_t seeds = 3;
  std::uint32_t oracle = 4000;
  bool rows = false;
};

/// A quantity that policies are compared by.
struct Quantity {
  std::string_view name;
  double (*of)(const sim::Report&);
  bool more_is_better;
  std::string_view format;
};

constexpr Quantity kQuantities[] = {
    {"TTFT p50", [](const sim::Report& r) { return r.ttft_ms.p50; }, false, "{:.0f}"},
    {"TTFT p90", [](const sim::Report& r) { return r.ttft_ms.p90; }, false, "{:.0f}"},
    {"TTFT p99", [](const sim::Report& r) { return r.ttft_ms.p99; }, false, "{:.0f}"},
    {"goodput", [](const sim::Report& r) { return r.goodput_ratio; }, true, "{:.3f}"},
    {"tok/s", [](const sim::Report& r) { return r.output_tokens_per_s; }, true, "{:.0f}"},
    {"TPOT", [](const sim::Report& r) { return r.tpot_ms.mean; }, false, "{:.2f}"},
    {"TTFT mean", [](const sim::Report& r) { return r.ttft_ms.mean; }, false, "{:.1f}"},
    {"hit", [](const sim::Report& r) { return r.prefix_hit_ratio; }, true, "{:.3f}"},
    {"imbalance", [](const sim::Report& r) { return r.imbalance; }, false, "{:.2f}"},
};
constexpr std::size_t kCompared = 6;  // of those, the first: what `latency` is held to
constexpr double kTolerance = 0.02;

std::string number(std::string_view format, double value) {
  return fmt::format(fmt::runtime(format), value);
}

/// Traces by name and seed, each made once.
class Traces final {
 public:
  explicit Traces(std::string data) : data_(std::move(data)) {}

  const sim::Trace& get(std::string_view name, std::uint64_t seed) {
    const bool file = name == "conversation" || name == "azure";
    const std::lock_guard lock(mutex_);
    std::optional<sim::Trace>& trace = traces_[{std::string(name), file ? 0 : seed}];
    if (!trace) trace = file ? read(name) : must(sim::generate(name, seed, SIZE_MAX));
    return *trace;
  }

 private:
  [[nodiscard]] sim::Trace read(std::string_view name) const {
    const std::string path =
        data_ + (name == "azure" ? "/azure_llm_code_2023.csv" : "/mooncake_conversation.jsonl");
    std::ifstream in(path);
    if (!in) {
      return must<sim::Trace>(
          invalid(fmt::format("cannot read {}: give its folder with --data", path)));
    }
    return must(sim::read_trace(in, path, {}));
  }

  const std::string data_;
  std::mutex mutex_;
  std::map<std::pair<std::string, std::uint64_t>, std::optional<sim::Trace>> traces_;
};

/// Calls job(0) .. job(count - 1) on all cores, with progress on standard error.
void on_all_cores(std::size_t count, const auto& job) {
  std::atomic<std::size_t> next = 0;
  std::atomic<std::size_t> done = 0;
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (std::size_t mine = next++; mine < count; mine = next++) {
        job(mine);
        fmt::print(stderr, "\r{} of {} runs ", ++done, count);
      }
    });
  }
  threads.clear();
  fmt::print(stderr, "\r{:<30}\r", "");
}

/// results[cell][policy]: the runs of all seeds.
using Results = std::vector<std::vector<std::vector<sim::Report>>>;

/// One seed is enough where nothing is drawn: with a recorded trace only ties are.
Results run_all(std::span<const Cell> cells, std::span<const std::string> policies,
                std::uint32_t seeds, Traces& traces) {
  struct Job {
    std::size_t cell, policy, seed;
  };
  std::vector<Job> jobs;
  Results results(cells.size());
  for (std::size_t c = 0; c < cells.size(); ++c) {
    results[c].resize(policies.size());
    for (std::size_t p = 0; p < policies.size(); ++p) {
      results[c][p].resize(seeds);
      for (std::size_t s = 0; s < seeds; ++s) jobs.push_back({c, p, s});
    }
  }
  on_all_cores(jobs.size(), [&](std::size_t i) {
    const Job& job = jobs[i];
    sim::Setup setup = cells[job.cell].setup;
    setup.policy = policies[job.policy];
    setup.seed = job.seed + 1;
    results[job.cell][job.policy][job.seed] =
        must(sim::simulate(traces.get(cells[job.cell].trace, setup.seed), setup));
  });
  return results;
}

double median(std::span<const sim::Report> runs, const Quantity& quantity) {
  std::vector<double> values;
  for (const sim::Report& run : runs) values.push_back(quantity.of(run));
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print_rows(const Cell& cell, std::span<const std::string> policies,
                const std::vector<std::vector<sim::Report>>& runs) {
  fmt::print("\n**{}**\n\n| policy |", cell.name);
  for (const Quantity& q : kQuantities) fmt::print(" {} |", q.name);
  fmt::print("\n|---|");
  for (std::size_t i = 0; i < std::size(kQuantities); ++i) fmt::print("--:|");
  fmt::print("\n");
  for (std::size_t p = 0; p < policies.size(); ++p) {
    fmt::print("| {} |", policies[p]);
    for (const Quantity& q : kQuantities) {
      fmt::print(" {} |", number(q.format, median(runs[p], q)));
    }
    fmt::print("\n");
  }
}

/// What the first policy has, against the best of the others. A cell in which it is worse by more
/// than the tolerance is bold, with who is better.
std::size_t print_summary(std::span<const Cell> cells, std::span<const std::string> policies,
                          const Results& results) {
  fmt::print("\n| cell |");
  for (const Quantity& q : std::span(kQuantities).first(kCompared)) fmt::print(" {} |", q.name);
  fmt::print("\n|---|");
  for (std::size_t i = 0; i < kCompared; ++i) fmt::print("--:|");
  fmt::print("\n");
  std::size_t lost = 0;
  for (std::size_t c = 0; c < cells.size(); ++c) {
    fmt::print("| {} |", cells[c].name);
    for (const Quantity& q : std::span(kQuantities).first(kCompared)) {
      const double ours = median(results[c][0], q);
      double best = q.more_is_better ? 0 : 1e300;
      std::string_view who;
      for (std::size_t p = 1; p < policies.size(); ++p) {
        const double other = median(results[c][p], q);
        if (q.more_is_better ? other > best : other < best) {
          best = other;
          who = policies[p];
        }
      }
      const double ratio = best > 0 ? ours / best : 1;
      const bool loses = q.more_is_better ? ratio < 1 - kTolerance : ratio > 1 + kTolerance;
      lost += loses ? 1 : 0;
      fmt::print(fmt::runtime(loses ? " **{} {:+.1f} %** {} |" : " {} {:+.1f} %{} |"),
                 number(q.format, ours), 100 * (ratio - 1), loses ? who : "");
    }
    fmt::print("\n");
  }
  return lost;
}

template <class Cells>
std::vector<Cell> selected(const Cells& cells, const std::string& only) {
  std::vector<Cell> found;
  for (const Cell& cell : cells) {
    if (cell.name.find(only) != std::string_view::npos) found.push_back(cell);
  }
  return found;
}

void published(const Flags& f, Traces& traces) {
  const std::vector<Cell> cells = selected(published_cells(), f.only);
  if (cells.empty()) return;
  const std::vector<std::string> policies = {"round-robin",    "random",        "least-loaded",
                                             "llm-d-weighted", "prefix-sticky", "smg-cache-aware",
                                             "dynamo"};
  const Results results = run_all(cells, policies, f.seeds, traces);
  fmt::print("\n## Published workloads, re-implemented policies\n");
  for (std::size_t c = 0; c < cells.size(); ++c) print_rows(cells[c], policies, results[c]);
}

void scoreboard(const Flags& f, Traces& traces) {
  const std::vector<Cell> cells = selected(scoreboard_cells(), f.only);
  if (cells.empty()) return;
  const Results results = run_all(cells, f.policies, f.seeds, traces);
  fmt::print("\n## Scoreboard: `{}` against the best of the others\n", f.policies.front());
  const std::size_t lost = print_summary(cells, f.policies, results);
  fmt::print("\n{} of {} worse than the best by more than {:.0f} %.\n", lost,
             cells.size() * kCompared, 100 * kTolerance);
  if (!f.rows) return;
  fmt::print("\n## All rows\n");
  for (std::size_t c = 0; c < cells.size(); ++c) print_rows(cells[c], f.policies, results[c]);
}

int run(const Flags& f) {
  Traces traces(f.data);
  fmt::print("Medians of {} seeds. TTFT and TPOT in ms; goodput: TTFT <= 2 s and TPOT <= 25 ms.\n",
             f.seeds);
  published(f, traces);
  scoreboard(f, traces);
  if (f.only.empty() || f.only == "moments") {
    fmt::print("\n## Requests of one moment, mean TTFT / TPOT in ms\n");
    print_moments(traces.get("conversation", 0));
  }
  if (f.only.empty() || f.only == "splitting") {
    fmt::print("\n## Prompts and answers on different workers\n");
    print_splitting(scoreboard_cells(), [&](std::string_view name) -> const sim::Trace& {
      return traces.get(name, 1);
    });
  }
  if (f.oracle > 0 && (f.only.empty() || f.only == "oracle")) {
    fmt::print("\n## How much a policy that knows the future gains\n");
    print_oracle(traces.get("conversation", 0), traces.get("bursts", 1), f.oracle);
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) {
  penstock::bench::Flags flags;
  for (const auto& entry : penstock::router::policies()) flags.policies.emplace_back(entry.name);
  CLI::App app(
      "All routing policies on published workloads and on the scoreboard's, simulated; the "
      "first policy is held to the best of the others");
  app.add_option("--data", flags.data, "Folder of the recorded traces")->capture_default_str();
  app.add_option("--only", flags.only,
                 "Cells whose names contain this; moments, splitting, oracle: none but that part");
  app.add_option("--policies", flags.policies, "Of the scoreboard")->delimiter(',');
  app.add_option("--seeds", flags.seeds, "Runs of each; the median is shown")
      ->check(CLI::Range(1, 99))
      ->capture_default_str();
  app.add_option("--oracle", flags.oracle, "Changes that the oracle tries; 0: leave it out")
      ->capture_default_str();
  app.add_flag("--rows", flags.rows, "Print every policy's row of every cell");
  CLI11_PARSE(app, argc, argv);
  return penstock::bench::run(flags);
}
