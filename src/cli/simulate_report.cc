#include "cli/simulate_report.h"

#include <fmt/format.h>

#include <iterator>

#include "api/openai.h"

namespace penstock::cli {
namespace {

/// Ten significant digits: times of hours to the microsecond.
std::string number(double value) { return fmt::format("{:.10g}", value); }

std::string latency(const sim::Latency& l) {
  return fmt::format(R"({{"mean":{},"p50":{},"p90":{},"p99":{}}})", number(l.mean), number(l.p50),
                     number(l.p90), number(l.p99));
}

void append_run(std::string& out, const SimulatedRun& run, const sim::Setup& setup) {
  const sim::Report& r = run.report;
  out += R"({"policy":)";
  api::append_json_string(out, r.policy);
  const auto to = std::back_inserter(out);
  const std::uint32_t workers = setup.workers + setup.prefill_workers + setup.decode_workers;
  fmt::format_to(to, R"(,"workers":{},"prefill":{},"decode":{},"requests":{},"completed":{})",
                 workers, setup.prefill_workers, setup.decode_workers, r.requests, r.completed);
  fmt::format_to(to, R"(,"ttft_ms":{},"itl_ms":{},"tpot_ms":{},"e2e_ms":{})", latency(r.ttft_ms),
                 latency(r.itl_ms), latency(r.tpot_ms), latency(r.e2e_ms));
  fmt::format_to(to, R"(,"prefix_hit_ratio":{},"requests_per_s":{},"output_tokens_per_s":{})",
                 number(r.prefix_hit_ratio), number(r.requests_per_s),
                 number(r.output_tokens_per_s));
  fmt::format_to(to, R"(,"goodput_ratio":{},"imbalance":{},"duration_ms":{})",
                 number(r.goodput_ratio), number(r.imbalance), number(r.duration_ms));
  fmt::format_to(to, R"(,"wall_s":{},"peak_rss_bytes":{},"rejected":{},"failed":{})",
                 number(run.wall_s), run.peak_rss_bytes, r.rejected, r.failed);
  fmt::format_to(to, R"(,"input_tokens":{},"output_tokens":{},"passes":{},"preemptions":{})",
                 r.input_tokens, r.output_tokens, r.passes, r.preemptions);
  fmt::format_to(to, R"(,"predicted_hit_ratio":{},"routers":{},"speed":{},"concurrency":{})",
                 number(r.predicted_hit_ratio), setup.routers, number(setup.speed),
                 setup.concurrency);
  fmt::format_to(to, R"(,"host_hit_ratio":{},"disk_hit_ratio":{},"disk_bytes_written":{})",
                 number(r.host_hit_ratio), number(r.disk_hit_ratio), r.disk_bytes_written);
  fmt::format_to(to, R"(,"shed":{},"retries":{},"kv_replays":{},"kv_snapshots":{},"seed":{}}})",
                 r.shed, r.retries, r.kv_replays, r.kv_snapshots, setup.seed);
}

}  // namespace

std::string simulated_json(std::span<const SimulatedRun> runs, const sim::Setup& setup) {
  std::string out = R"({"runs":[)";
  for (const SimulatedRun& run : runs) {
    if (out.back() != '[') out += ',';
    append_run(out, run, setup);
  }
  out += "]}";
  return out;
}

std::string described(const sim::Setup& setup) {
  std::string text = setup.workers > 0 ? fmt::format("{} workers", setup.workers)
                                       : fmt::format("{} prefill + {} decode workers",
                                                     setup.prefill_workers, setup.decode_workers);
  if (setup.routers > 1) text += fmt::format(", {} routers", setup.routers);
  text += setup.concurrency > 0 ? fmt::format(", closed loop of {}", setup.concurrency)
                                : fmt::format(", arrivals at {:g}x", setup.speed);
  return text;
}

std::string simulated_table(std::span<const SimulatedRun> runs, const sim::Setup& setup) {
  std::string out = described(setup) + "\n";
  out += fmt::format("{:<16} {:>9} {:>8} {:>8} {:>8} {:>7} {:>7} {:>6} {:>8} {:>7} {:>6} {:>7}\n",
                     "policy", "TTFT mean", "p50", "p90", "p99", "TPOT", "p99", "hit %", "tok/s",
                     "good %", "imbal.", "wall s");
  for (const SimulatedRun& run : runs) {
    const sim::Report& r = run.report;
    out += fmt::format(
        "{:<16} {:>9.1f} {:>8.1f} {:>8.1f} {:>8.0f} {:>7.2f} {:>7.1f} {:>6.1f} {:>8.0f} {:>7.1f} "
        "{:>6.2f} {:>7.2f}\n",
        r.policy, r.ttft_ms.mean, r.ttft_ms.p50, r.ttft_ms.p90, r.ttft_ms.p99, r.tpot_ms.mean,
        r.tpot_ms.p99, 100 * r.prefix_hit_ratio, r.output_tokens_per_s, 100 * r.goodput_ratio,
        r.imbalance, run.wall_s);
    if (setup.tiers.any()) {
      out += fmt::format(
          "{:<16} of prompt tokens {:.1f} % from host memory, {:.1f} % from disk; {:.0f} bytes "
          "written to disk a token served\n",
          "", 100 * r.host_hit_ratio, 100 * r.disk_hit_ratio, r.disk_bytes_per_token);
    }
    if (r.completed < r.requests || setup.faults.any()) {
      out += fmt::format("{:<16} {} of {} completed, {} rejected, {} failed, {} shed", "",
                         r.completed, r.requests, r.rejected, r.failed, r.shed);
      if (setup.faults.any()) {
        out += fmt::format("; {} retries, {} replays and {} snapshots of caches", r.retries,
                           r.kv_replays, r.kv_snapshots);
      }
      out += '\n';
    }
  }
  out += "TTFT and TPOT in ms.";
  return out;
}

}  // namespace penstock::cli
