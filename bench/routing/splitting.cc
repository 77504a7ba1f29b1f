#include "splitting.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "../must.h"
#include "router/policy.h"

namespace penstock::bench {
namespace {

using router::Choice;
using router::Question;

/// `latency` chooses the workers, but whether to split is decided as in llm-d: from so many tokens
/// on that the worker of the whole would have to compute. Blind to queues.
class Threshold final : public router::Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return inner_->needs(); }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return inner_->terms();
  }
  Choice pick(const Question& q, Rng& rng, router::Explanation* why) override {
    return inner_->pick(q, rng, why);
  }
  Choice pick_part(const Question& q, const router::Split& split, Rng& rng,
                   router::Explanation* why) override {
    const Choice whole = inner_->pick(q, rng, why);
    if (q.uncached_tokens(whole.slot) < kTokens) return whole;
    Question prompt = q;
    prompt.stage = router::Stage::kPrefill;
    prompt.candidates = split.prefill;
    Choice choice = inner_->pick(prompt, rng, nullptr);
    choice.stage = prompt.stage;
    return choice;
  }
  void finished(double ttft_ms, double decode_ms, std::uint32_t tokens) noexcept override {
    inner_->finished(ttft_ms, decode_ms, tokens);
  }

 private:
  static constexpr std::uint32_t kTokens = 16;
  std::unique_ptr<router::Policy> inner_ = router::find_policy("latency")->make();
};

sim::Report play(const sim::Trace& trace, const sim::Setup& setup, bool threshold = false) {
  const auto make = [&]() -> std::unique_ptr<router::Policy> {
    return threshold ? std::make_unique<Threshold>() : router::find_policy("latency")->make();
  };
  return must(sim::simulate(trace, setup, make));
}

/// A model of 70 billion parameters on two H100 a worker: some 7,300 prompt tokens/s, 80 layers of
/// 8 KV heads of 128 in 16 bits.
sim::Setup large(sim::Setup setup, double speed) {
  setup.model.speedup = 0.15;
  setup.kv_bytes_per_token = 327'680;
  setup.speed = speed;
  return setup;
}

void print_large(std::string_view name, const sim::Trace& trace, double speed) {
  const sim::Setup apart = large(
      {.workers = 0, .prefill_workers = 1, .decode_workers = 3, .split_when_better = true}, speed);
  const auto cell = [](const sim::Report& r) {
    return fmt::format("{:.0f} / {:.0f} / {:.1f}", r.ttft_ms.mean, r.ttft_ms.p99, r.tpot_ms.mean);
  };
  const sim::Report decided = play(trace, apart);
  const sim::Report fixed = play(trace, apart, true);
  fmt::print("| {} | {} | {} | {} | {} | {:.1f} |\n", name,
             cell(play(trace, large({.workers = 4}, speed))),
             cell(play(trace, large({.workers = 3}, speed))), cell(fixed), cell(decided),
             fixed.ttft_ms.mean / decided.ttft_ms.mean);
  std::fflush(stdout);
}

std::string more(double with, double without) {
  return fmt::format("{:+.1f} %", without > 0 ? 100 * (with / without - 1) : 0);
}

/// Each cell's fleet, of which `apart` compute prompts for others only, free to split and not.
void print_cells(std::span<const Cell> cells, const TraceOf& trace_of, std::uint32_t apart) {
  fmt::print("| cell | TTFT mean | TTFT p99 | TPOT | tok/s |\n|---|--:|--:|--:|--:|\n");
  for (const Cell& cell : cells) {
    if (cell.setup.workers <= apart) continue;
    sim::Setup setup = cell.setup;
    setup.workers -= apart;
    const sim::Report never = play(trace_of(cell.trace), setup);
    if (apart > 0) {
      setup.prefill_workers = apart;
      setup.decode_workers = std::exchange(setup.workers, 0);
    }
    setup.split_when_better = true;
    const sim::Report free = play(trace_of(cell.trace), setup);
    fmt::print(
        "| {} | {} | {} | {} | {} |\n", cell.name, more(free.ttft_ms.mean, never.ttft_ms.mean),
        more(free.ttft_ms.p99, never.ttft_ms.p99), more(free.tpot_ms.mean, never.tpot_ms.mean),
        more(free.output_tokens_per_s, never.output_tokens_per_s));
    std::fflush(stdout);
  }
}

}  // namespace

void print_splitting(std::span<const Cell> cells, const TraceOf& trace_of) {
  fmt::print(
      "\nA 70B model: mean TTFT / p99 / TPOT ms.\n\n"
      "| load | 4 workers, never split | 1 + 3, never split | 1 + 3, from 16 uncached tokens on "
      "| 1 + 3, `latency` decides | times shorter |\n|---|--:|--:|--:|--:|--:|\n");
  print_large("conversation, 0.7 requests/s", trace_of("conversation"), 0.2);
  print_large("conversation, 1.7 requests/s", trace_of("conversation"), 0.5);
  print_large("poisson, 1 request/s", trace_of("poisson:rate=1"), 1);
  print_large("poisson, 3 requests/s", trace_of("poisson:rate=3"), 1);
  print_large("bursts", trace_of("bursts"), 0.5);

  fmt::print("\nWorkers that may do both, `latency` free to split, against never:\n\n");
  print_cells(cells, trace_of, 0);
  fmt::print(
      "\nOne of the workers for prompts only, `latency` free to use it, against never: the others "
      "alone:\n\n");
  print_cells(cells, trace_of, 1);
}

}  // namespace penstock::bench
