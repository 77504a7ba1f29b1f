#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/policy_names.h"
#include "cli/simulate_plot.h"
#include "cli/simulate_report.h"
#include "router/policy.h"
#include "sim/generators.h"
#include "sim/simulation.h"
#include "sim/trace_readers.h"

namespace penstock::cli {
namespace {

constexpr const char* kSimulateDescription =
    "Replay a trace against a simulated fleet, with the router that serves: a row a policy";

std::string footer() {
  std::string text =
      "Examples:\n"
      "  penstock simulate conversation.jsonl --workers 8 --policy round-robin,dynamo\n"
      "      a Mooncake trace (or an Azure CSV) at its own times, two policies compared\n"
      "  penstock simulate conversation.jsonl --prefill 4 --decode 4 --speed 2 --json\n"
      "      prefill and decode on different workers, arrivals twice as fast\n"
      "  penstock simulate shared-prefix:groups=150,users=5,rate=20,requests=3000 --workers 8\n"
      "      requests made up by a generator; a wrong setting lists the right ones\n"
      "\n"
      "TRACE is a file or GENERATOR[:SETTING=VALUE,...]. Generators:\n";
  for (const sim::GeneratorEntry& entry : sim::generators()) {
    text += fmt::format("  {:<18} {}\n", entry.name, entry.description);
  }
  text += "\nPolicies (all of them with --policy all):\n";
  text += policy_list();
  text +=
      "\n"
      "A worker is modelled as vLLM schedules: continuous batching, chunked prefill, a pool of KV\n"
      "blocks with a prefix cache, preemption. Its default clock is the one of Dynamo's mocker, "
      "so\n"
      "that results can be compared. Equal arguments give equal results, to the last digit.\n"
      "TTFT and e2e count from a request's arrival; TPOT is a request's mean time between tokens,\n"
      "ITL every single gap. Good requests keep to both --slo-*.\n"
      "Exit status: 0 done, 1 failed, 2 wrong usage.";
  return text;
}

struct SimulateFlags {
  std::string trace;
  std::vector<std::string> policies = {std::string(router::policies().front().name)};
  std::optional<std::uint32_t> workers;
  std::uint32_t prefill = 0;
  std::uint32_t decode = 0;
  bool split_when_better = false;
  std::uint64_t requests = 0;
  std::uint32_t trace_block_tokens = 512;
  double speed = 1;
  std::uint32_t concurrency = 0;
  double spread_ms = 0;
  bool one_at_a_time = false;
  std::uint64_t seed = 1;
  double slo_ttft_ms = 2000;
  double slo_itl_ms = 25;
  std::uint32_t kv_blocks = 16384;
  std::uint32_t block_tokens = 64;
  std::uint32_t sequences_max = 256;
  std::uint32_t pass_tokens = 8192;
  std::optional<double> transfer_gb_per_s;
  std::optional<double> kv_bytes_per_token;
  bool early_hand_over = false;
  std::uint32_t host_kv_blocks = 0;
  std::uint32_t disk_kv_blocks = 0;
  std::optional<double> host_gb_per_s;
  std::optional<double> disk_gb_per_s;
  std::uint32_t routers = 1;
  bool routers_apart = false;
  std::optional<double> peer_delay_ms;
  double event_delay_ms = 0;
  double load_delay_ms = 0;
  double fault_restart_every_s = 0;
  double fault_restart_takes_s = 10;
  std::uint32_t fault_retries = 2;
  double fault_deadline_ms = 0;
  double fault_event_loss = 0;
  double fault_event_duplicates = 0;
  double fault_event_late = 0;
  double fault_event_late_ms = 200;
  double fault_slow_workers = 0;
  double fault_slowdown = 3;
  std::string plot;
  bool json = false;
  bool progress = false;
};

void declare_fleet(Command& command, SimulateFlags& f) {
  command.group("Fleet");
  command.add("--policy", f.policies, "Policies to compare, by name, comma between; or all")
      .separated_by(',');
  command.add_optional("--workers", f.workers, "Workers that prefill and decode (default: 8)")
      .range(1U, sim::kWorkersMax);
  command
      .add("--prefill", f.prefill, "Workers that only prefill; with --decode, instead of --workers")
      .range(0U, sim::kWorkersMax / 2);
  command.add("--decode", f.decode, "Workers that only decode").range(0U, sim::kWorkersMax / 2);
  command.add("--kv-blocks", f.kv_blocks, "KV blocks of a worker").range(1, 1 << 28);
  command.add("--block-tokens", f.block_tokens, "Tokens of a KV block").range(1, 1 << 16);
  command.add("--sequences", f.sequences_max, "Requests a worker runs at once").range(1, 1 << 20);
  command.add("--pass-tokens", f.pass_tokens, "Tokens a worker computes in one pass")
      .range(1, 1 << 24);
  command
      .add_optional("--transfer-gb-s", f.transfer_gb_per_s,
                    "Of KV from prefill to decode workers, GB/s (default: 64)")
      .range(1e-3, 1e6);
  command
      .add_optional("--kv-bytes-per-token", f.kv_bytes_per_token,
                    "Size of one token's KV, bytes (default: 131072)")
      .range(0.0, 1e9);
  command.add_switch(
      "--early-hand-over", f.early_hand_over,
      "Prompts leave a prefill worker with their first token, not as in Dynamo's replay");
  command.add_switch("--split-when-better", f.split_when_better,
                     "A prompt goes to a prefill worker where the router finds that better; decode "
                     "workers compute the others");
  command.add("--routers", f.routers, "Router replicas; arrivals go to them in turn")
      .range(1U, sim::kRoutersMax);
  command.add_switch("--routers-apart", f.routers_apart,
                     "Each places what comes in at it; otherwise one of them places all");
  command
      .add_optional("--peer-delay-ms", f.peer_delay_ms,
                    "From one router to another, ms (default: 1)")
      .range(0.0, 1e6);
  command.add("--event-delay-ms", f.event_delay_ms, "From a worker's KV events to the routers, ms")
      .range(0.0, 1e6);
  command.add("--load-delay-ms", f.load_delay_ms, "From a worker's load reports to the routers, ms")
      .range(0.0, 1e6);
}

/// Behind each worker's own KV (sim/internal/tier_model.h).
void declare_tiers(Command& command, SimulateFlags& f) {
  command.group("KV in tiers");
  command.add("--host-kv-blocks", f.host_kv_blocks, "KV blocks in each worker's host memory")
      .range(0, 1 << 28);
  command
      .add("--disk-kv-blocks", f.disk_kv_blocks,
           "and on its disk; what is worth it is written and loaded by the rules of --kv-disk")
      .range(0, 1 << 28);
  command
      .add_optional("--host-gb-per-s", f.host_gb_per_s,
                    "Loading from host memory, GB/s (default: 50)")
      .range(1e-3, 1e6);
  command
      .add_optional("--disk-gb-per-s", f.disk_gb_per_s,
                    "and from disk, one load after the other, GB/s (default: 12)")
      .range(1e-3, 1e6);
}

void declare_load(Command& command, SimulateFlags& f) {
  command.group("Load");
  command.add("--speed", f.speed, "Arrivals so many times as fast as in the trace")
      .range(1e-3, 1e6);
  command
      .add("--concurrency", f.concurrency,
           "Closed loop: so many requests in flight, in the trace's order; 0: at its times")
      .range(0, 1 << 24);
  command.add("--spread-ms", f.spread_ms, "Each request later by up to so much at random, ms")
      .range(0.0, 1e9);
  command.add_switch("--one-at-a-time", f.one_at_a_time,
                     "Requests of one moment are placed one by one, as penstock serve does, not "
                     "planned together");
  command.add("--requests", f.requests, "Only the trace's first so many; 0: all").range(0.0, 1e9);
  command
      .add("--trace-block-tokens", f.trace_block_tokens, "Tokens that a trace's hash id stands for")
      .range(1, 1 << 20);
  command.add("--seed", f.seed, "Of everything random: ties, draws, generated requests");
}

/// What goes wrong (sim/faults.h). Drawn from --seed.
void declare_faults(Command& command, SimulateFlags& f) {
  command.group("Faults");
  command
      .add("--fault-restart-every-s", f.fault_restart_every_s,
           "Each worker restarts so often on average, losing cache and requests, s; 0: never")
      .range(0.0, 1e9);
  command.add("--fault-restart-takes-s", f.fault_restart_takes_s, "and is away for so long, s")
      .range(0.0, 1e9);
  command
      .add("--fault-retries", f.fault_retries,
           "Tries more of a request lost with its worker before its first token")
      .range(0U, 100U);
  command
      .add("--fault-deadline-ms", f.fault_deadline_ms,
           "Requests that have not ended after so long fail, ms; 0: none do")
      .range(0.0, 1e9);
  command
      .add("--fault-event-loss", f.fault_event_loss,
           "Share of the messages about a worker's cache that are lost")
      .range(0.0, 0.99);
  command.add("--fault-event-duplicates", f.fault_event_duplicates, "Share that come twice")
      .range(0.0, 0.99);
  command
      .add("--fault-event-late", f.fault_event_late,
           "Share that come late, so that others overtake them,")
      .range(0.0, 0.99);
  command.add("--fault-event-late-ms", f.fault_event_late_ms, "by up to so much, ms")
      .range(0.0, 1e6);
  command.add("--fault-slow-workers", f.fault_slow_workers, "Share of workers that are slow,")
      .range(0.0, 1.0);
  command.add("--fault-slowdown", f.fault_slowdown, "taking so many times as long")
      .range(1.0, 1000.0);
}

void declare_report(Command& command, SimulateFlags& f) {
  command.group("Report");
  command.add("--slo-ttft-ms", f.slo_ttft_ms, "A good request's TTFT is at most this, ms")
      .range(0.0, 1e9);
  command
      .add("--slo-itl-ms", f.slo_itl_ms, "and its mean time between tokens (TPOT) at most this, ms")
      .range(0.0, 1e9);
  command.add("--plot", f.plot, "Also write curves of all policies to this HTML file");
  command.add_switch("--json", f.json, "Print one JSON object on standard output and nothing else");
  command.add_switch("--progress", f.progress,
                     "Show progress even if standard error is no terminal");
}

Nanos from_ms(double ms) { return from_seconds(ms / 1e3); }

/// The names asked for, once each; fails on an unknown one.
Result<std::vector<std::string>> policies_of(const SimulateFlags& f) {
  std::vector<std::string> wanted;
  for (const std::string& name : f.policies) {
    if (name == "all") return policy_names();
    if (Result<void> known = check_policy(name); !known) return std::unexpected(known.error());
    if (std::ranges::find(wanted, name) == wanted.end()) wanted.push_back(name);
  }
  return wanted;
}

/// Flags that would say nothing without others are refused.
Result<void> check_partners(const SimulateFlags& f) {
  if ((f.prefill > 0) != (f.decode > 0)) return invalid("--prefill and --decode need each other");
  if (f.workers && f.prefill > 0) {
    return invalid("--workers prefill and decode: not with --prefill and --decode");
  }
  for (const auto& [given, flag] :
       {std::pair{f.early_hand_over, "--early-hand-over"},
        std::pair{f.split_when_better, "--split-when-better"},
        std::pair{f.transfer_gb_per_s.has_value(), "--transfer-gb-s"}}) {
    if (given && f.prefill == 0) {
      return invalid(
          fmt::format("{} says how KV gets from prefill to decode workers: it needs "
                      "--prefill and --decode",
                      flag));
    }
  }
  const bool tiers = f.host_kv_blocks > 0 || f.disk_kv_blocks > 0;
  if (f.kv_bytes_per_token && f.prefill == 0 && !tiers) {
    return invalid(
        "--kv-bytes-per-token says how much KV is moved: it needs --prefill and --decode, "
        "--host-kv-blocks or --disk-kv-blocks");
  }
  if (f.host_gb_per_s && f.host_kv_blocks == 0) {
    return invalid("--host-gb-per-s: it needs --host-kv-blocks");
  }
  if (f.disk_gb_per_s && f.disk_kv_blocks == 0) {
    return invalid("--disk-gb-per-s: it needs --disk-kv-blocks");
  }
  for (const auto& [given, flag] : {std::pair{f.routers_apart, "--routers-apart"},
                                    std::pair{f.peer_delay_ms.has_value(), "--peer-delay-ms"}}) {
    if (given && f.routers == 1) {
      return invalid(fmt::format("{} is about several routers: it needs --routers", flag));
    }
  }
  return {};
}

Result<sim::Setup> setup_of(const SimulateFlags& f) {
  if (Result<void> checked = check_partners(f); !checked) return std::unexpected(checked.error());
  sim::Setup setup;
  setup.workers = f.prefill > 0 ? 0 : f.workers.value_or(setup.workers);
  setup.prefill_workers = f.prefill;
  setup.split_when_better = f.split_when_better;
  setup.decode_workers = f.decode;
  setup.model.kv_blocks = f.kv_blocks;
  setup.model.block_tokens = f.block_tokens;
  setup.model.sequences_max = f.sequences_max;
  setup.model.pass_tokens_max = f.pass_tokens;
  setup.transfer_bytes_per_ns = f.transfer_gb_per_s.value_or(setup.transfer_bytes_per_ns);
  if (f.kv_bytes_per_token) {
    setup.kv_bytes_per_token = static_cast<std::uint64_t>(*f.kv_bytes_per_token);
  }
  setup.early_hand_over = f.early_hand_over;
  setup.tiers = {.host_blocks = f.host_kv_blocks,
                 .disk_blocks = f.disk_kv_blocks,
                 .host_bytes_per_ns = f.host_gb_per_s.value_or(setup.tiers.host_bytes_per_ns),
                 .disk_bytes_per_ns = f.disk_gb_per_s.value_or(setup.tiers.disk_bytes_per_ns)};
  setup.speed = f.speed;
  setup.concurrency = f.concurrency;
  setup.one_at_a_time = f.one_at_a_time;
  setup.seed = f.seed;
  setup.slo = {.ttft_ms = f.slo_ttft_ms, .itl_ms = f.slo_itl_ms};
  setup.series = !f.plot.empty();
  setup.routers = f.routers;
  setup.placing = f.routers_apart ? sim::Placing::kApart : sim::Placing::kTogether;
  if (f.peer_delay_ms) setup.peer_delay = from_ms(*f.peer_delay_ms);
  setup.event_delay = from_ms(f.event_delay_ms);
  setup.load_delay = from_ms(f.load_delay_ms);
  setup.faults = {.restart_every = from_seconds(f.fault_restart_every_s),
                  .restart_takes = from_seconds(f.fault_restart_takes_s),
                  .retries_max = f.fault_retries,
                  .deadline = from_ms(f.fault_deadline_ms),
                  .event_loss = f.fault_event_loss,
                  .event_duplication = f.fault_event_duplicates,
                  .event_lateness = f.fault_event_late,
                  .event_late = from_ms(f.fault_event_late_ms),
                  .slow_workers = f.fault_slow_workers,
                  .slowdown = f.fault_slowdown};
  return setup;
}

Result<sim::Trace> trace_of(const SimulateFlags& f) {
  std::ifstream file(f.trace);
  const bool generated = sim::is_generator(f.trace);
  if (!file && !generated) {
    return fail(Code::kNotFound,
                fmt::format("cannot read {}, and no generator is called so (see --help)", f.trace));
  }
  const std::size_t requests_max = f.requests > 0 ? f.requests : SIZE_MAX;
  Result<sim::Trace> trace =
      file ? sim::read_trace(file, f.trace,
                             {.block_tokens = f.trace_block_tokens, .requests_max = requests_max})
           : sim::generate(f.trace, f.seed, requests_max);
  if (!trace || f.spread_ms == 0) return trace;
  return sim::spread_arrivals(std::move(*trace), from_ms(f.spread_ms), f.seed);
}

/// A line on standard error, from a second on and a few times each second.
class Bar final : public sim::Observer {
 public:
  Bar(bool show, std::string policy) : show_(show), policy_(std::move(policy)) {}
  ~Bar() override {
    if (drawn_) fmt::print(stderr, "\r{:<70}\r", "");
  }

  bool progress(std::uint64_t ended, std::uint64_t requests) override {
    const TimePoint now = clock_.now();
    if (!show_ || now < next_) return true;
    next_ = now + std::chrono::milliseconds(200);
    constexpr int kWidth = 32;
    const double done =
        requests == 0 ? 1 : static_cast<double>(ended) / static_cast<double>(requests);
    const int filled = static_cast<int>(done * kWidth);
    fmt::print(stderr, "\r{:<16} [{:#<{}}{:.<{}}] {:3.0f} %", policy_, "", filled, "",
               kWidth - filled, 100 * done);
    std::fflush(stderr);
    drawn_ = true;
    return true;
  }

 private:
  const bool show_;
  const std::string policy_;
  SteadyClock clock_;
  TimePoint next_ = clock_.now() + std::chrono::seconds(1);
  bool drawn_ = false;
};

std::uint64_t peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

Result<void> write_plot(const SimulateFlags& f, std::span<const SimulatedRun> runs,
                        const sim::Setup& setup) {
  std::ofstream file(f.plot, std::ios::binary);
  file << simulated_plot(runs, setup, f.trace);
  file.close();
  if (!file) return fail(Code::kInternal, fmt::format("cannot write {}", f.plot));
  return {};
}

int run_simulate(const SimulateFlags& f) {
  const Result<std::vector<std::string>> policies = policies_of(f);
  if (!policies) return refuse("simulate", policies.error(), 2);
  log::set_level(log::Level::kError);  // simulated routers log what goes wrong, as real ones do
  Result<sim::Setup> setup = setup_of(f);
  if (!setup) return refuse("simulate", setup.error(), 2);
  const Result<sim::Trace> trace = trace_of(f);
  if (!trace) return refuse("simulate", trace.error(), 2);
  const bool show = f.progress || isatty(STDERR_FILENO) != 0;
  const SteadyClock clock;
  std::vector<SimulatedRun> runs;
  for (const std::string& policy : *policies) {
    setup->policy = policy;
    const TimePoint begin = clock.now();
    Bar bar(show, policy);
    const Result<sim::Report> report = sim::simulate(*trace, *setup, &bar);
    if (!report) return refuse("simulate", report.error(), 1);
    runs.push_back({.report = *report,
                    .wall_s = to_ms(clock.now() - begin) / 1e3,
                    .peak_rss_bytes = peak_rss_bytes()});
  }
  if (!f.plot.empty()) {
    const Result<void> written = write_plot(f, runs, *setup);
    if (!written) return refuse("simulate", written.error(), 1);
  }
  fmt::print("{}\n", f.json ? simulated_json(runs, *setup) : simulated_table(runs, *setup));
  return 0;
}

}  // namespace

void add_simulate(CommandLine& line) {
  auto flags = std::make_shared<SimulateFlags>();
  Command& command = line.add_command("simulate", kSimulateDescription, "PENSTOCK_SIMULATE_");
  command.footer(footer());
  command.add_argument("TRACE", flags->trace, "Mooncake JSON lines, Azure CSV, or a generator")
      .required();
  command.add_config_file();
  declare_fleet(command, *flags);
  declare_tiers(command, *flags);
  declare_load(command, *flags);
  declare_faults(command, *flags);
  declare_report(command, *flags);
  command.on_run([flags] { return run_simulate(*flags); });
}

}  // namespace penstock::cli
