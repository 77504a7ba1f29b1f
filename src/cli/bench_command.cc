#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "base/clock.h"
#include "cli/bench_flags.h"
#include "cli/command.h"
#include "cli/descriptors.h"
#include "cli/load/find_model.h"
#include "cli/load/progress.h"
#include "cli/load/report.h"
#include "cli/load/run.h"
#include "cli/signals.h"

namespace penstock::cli {
namespace {

constexpr const char* kBenchDescription =
    "Measure an OpenAI-compatible server under load: TTFT, ITL, end to end, tokens/s, goodput";

constexpr const char* kBenchFooter =
    "Examples:\n"
    "  penstock bench --url http://127.0.0.1:8000 --concurrency 16\n"
    "      16 users, each asking again when the last answer is complete, for 10 seconds\n"
    "  penstock bench --rate 20 --duration-s 60 --warmup-s 10 --slo-ttft-ms 200 --slo-itl-ms 30\n"
    "      20 requests a second whatever the server does, and how many of them were good\n"
    "  penstock bench --rate 5 --turns 4 --shared-prefix-tokens 1000 --prefix-groups 8 --json\n"
    "      conversations that share system prompts, as routers and prefix caches like them\n"
    "\n"
    "A closed loop asks a slow server less, so its latencies flatter the server under overload.\n"
    "An open loop (--rate, --trace) shows what users see: its latencies count from the time a\n"
    "request was meant to be sent. Later turns of a session follow the answer before at once.\n"
    "\n"
    "Latencies are of requests that ended well; ITL is the gap between two content events.\n"
    "Percentiles are nearest rank: p99 of 200 requests is the 198th smallest (to 0.1 %). Memory\n"
    "does not grow with the length of a run, only with what is in flight.\n"
    "\n"
    "Ctrl-C ends a run early and still reports.\n"
    "Exit status: 0 done, 1 a request failed (unless --allow-errors), 2 wrong usage.";

constexpr Nanos kFindModelTimeout = std::chrono::seconds(10);

/// Each request in flight holds a connection.
Result<void> allow_connections(const load::LoadOptions& options) {
  const bool closed = options.pacing == load::Pacing::kClosed;
  const std::uint64_t needed =
      (closed ? options.concurrency : options.in_flight_max) + kOtherDescriptors;
  const std::uint64_t allowed = allow_descriptors(needed);
  if (allowed >= needed) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("{} needs {} open files, but the limit is {} (see ulimit -n)",
                          closed ? "--concurrency" : "--max-in-flight", needed, allowed));
}

/// Drives the run to its end, or to the user's.
void attend(load::LoadRun& run, const load::LoadOptions& options, const Signals& signals,
            const Clock& clock, bool show) {
  constexpr Nanos kLook = std::chrono::milliseconds(50);
  constexpr int kLooksALine = 4;
  load::Progress progress(options, run.window(), run.live());
  bool stopped = false;
  for (int looks = 0; !run.wait_for(kLook); ++looks) {
    if (!stopped && signals.next(Nanos::zero()) != 0) {
      stopped = true;
      run.stop();
    }
    if (!show || looks % kLooksALine != 0) continue;
    fmt::print(stderr, "\r{}", progress.line(clock.now()));
    std::fflush(stderr);
  }
  if (show) fmt::print(stderr, "\r{}\n", progress.line(clock.now()));
}

int run_bench(const BenchFlags& flags) {
  const Result<std::unique_ptr<BenchPlan>> plan = settle(flags);
  if (!plan) return refuse("bench", plan.error(), 2);
  load::LoadOptions& options = (*plan)->options;
  const Result<void> allowed = allow_connections(options);
  if (!allowed) return refuse("bench", allowed.error(), 2);
  if (options.request.model.empty()) {
    const Result<std::string> model =
        load::find_model(options.server, options.request.api_key, kFindModelTimeout);
    if (!model) return refuse("bench", model.error(), 1);
    options.request.model = *model;
  }
  const Signals signals;
  const SteadyClock clock;
  load::LoadRun run(options, *(*plan)->prompts, (*plan)->trace, clock);
  attend(run, options, signals, clock, flags.progress || isatty(STDERR_FILENO) != 0);
  const load::RunResult result = run.collect();
  if (flags.json) {
    fmt::print("{}\n", load::json_report(options, result));
  } else {
    fmt::print("{}", load::text_report(options, result));
  }
  return load::failures(result) > 0 && !flags.allow_errors ? 1 : 0;
}

}  // namespace

void add_bench(CommandLine& line) {
  auto flags = std::make_shared<BenchFlags>();
  Command& command = line.add_command("bench", kBenchDescription, "PENSTOCK_BENCH_");
  command.footer(kBenchFooter);
  declare(command, *flags);
  command.on_run([flags] { return run_bench(*flags); });
}

}  // namespace penstock::cli
