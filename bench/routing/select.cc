// What one routing decision costs: Router::place() with `latency`, charge included, for a prompt of
// 100,000 tokens that is already hashed. Prints a row a fleet, with floors beside.

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "base/clock.h"
#include "base/counted_new.h"
#include "base/rng.h"
#include "pass_time.h"
#include "percentiles.h"
#include "router/router.h"

namespace penstock::bench {
namespace {

using kv::Slot;

constexpr std::uint32_t kBlockTokens = 64;
constexpr std::uint32_t kPromptTokens = 100'000;
constexpr std::uint32_t kPrompts = 64;
constexpr std::uint32_t kSystemBlocks = 64;  // that all prompts and workers share
constexpr std::uint32_t kHolders = 64;       // workers that hold more of a prompt, 8 all of it
constexpr int kRounds = 20'000;
constexpr int kWarmUp = 4'000;

/// A fleet in the middle of its work.
class Fleet final {
 public:
  explicit Fleet(std::uint32_t workers) : workers_(workers) {
    for (Slot slot = 0; slot < workers; ++slot) {
      (void)ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
      ledger_.set_cost(slot, {.pass_tokens_max = 8192});
    }
    for (std::uint32_t p = 0; p < kPrompts; ++p) add_prompt(p);
    generations_.resize(workers);
    accepted_.resize(workers);
    for (int i = 0; i < 30; ++i) {
      for (Slot slot = 0; slot < workers; ++slot) report(slot);
    }
  }

  /// One decision; ns.
  double place(std::uint32_t prompt) {
    const TimePoint begin = clock_.now();
    Result<router::Placement> placement = router_.place({.now = now_,
                                                         .prompt_tokens = kPromptTokens,
                                                         .block_tokens = kBlockTokens,
                                                         .locals = prompts_[prompt]});
    const double ns = to_ms(clock_.now() - begin) * 1e6;
    ++accepted_[placement->worker];
    fleet::Lease& lease = leases_[next_++ % leases_.size()];
    lease = std::move(placement->lease);
    lease.taken(prompts_[prompt], placement->cached_blocks);
    return ns;
  }
  double match(std::uint32_t prompt) {
    const TimePoint begin = clock_.now();
    index_.match(prompts_[prompt], depths_);
    return to_ms(clock_.now() - begin) * 1e6;
  }
  /// Reading and writing as much as the policy knows of the workers.
  double copy() {
    const TimePoint begin = clock_.now();
    std::memcpy(to_.data(), from_.data(), from_.size());
    return to_ms(clock_.now() - begin) * 1e6;
  }
  /// Time goes by: one in a hundred workers reports.
  void live() {
    now_ += std::chrono::microseconds(300);
    for (std::uint32_t i = 0; i < std::max(1U, workers_ / 100); ++i) report(rng_.below(workers_));
  }
  std::uint32_t any_prompt() { return rng_.below(kPrompts); }

 private:
  void add_prompt(std::uint32_t p) {
    std::vector<std::uint64_t>& locals = prompts_.emplace_back();
    std::vector<kv::StoredBlock> blocks;
    for (std::uint32_t i = 0; i < kPromptTokens / kBlockTokens; ++i) {
      const std::uint64_t own = i < kSystemBlocks ? 0 : p + 1;
      locals.push_back(mix64(own << 32 | i));
      blocks.push_back({.alias = locals.back(), .local = locals.back()});
    }
    const auto stored = [&](Slot slot, std::size_t depth) {
      index_.stored(slot, kv::Tier::kDevice, std::nullopt, std::span(blocks).first(depth));
    };
    if (p == 0) {
      for (Slot slot = 0; slot < workers_; ++slot) stored(slot, kSystemBlocks);
    }
    for (std::uint32_t h = 0; h < kHolders; ++h) {
      const auto more = static_cast<std::uint32_t>(blocks.size()) - kSystemBlocks;
      stored(rng_.below(workers_), h < 8 ? blocks.size() : kSystemBlocks + rng_.below(more));
    }
  }

  void report(Slot slot) {
    const auto pass = [&] {
      return fleet::PassWork{.prefill_tokens = rng_.below(2) == 0 ? 0 : rng_.below(8192),
                             .decodes = true,
                             .kv_use = 0.3 + rng_.fraction() / 2};
    };
    fleet::WorkerReport report{.generation = ++generations_[slot],
                               .accepted = accepted_[slot],
                               .running = 5 + rng_.below(40),
                               .waiting = rng_.below(3),
                               .kv_blocks_used = 5000 + rng_.below(8000),
                               .kv_blocks_max = 16384,
                               .pass_started = now_ - std::chrono::microseconds(rng_.below(9000)),
                               .pass = pass(),
                               .last_pass = pass()};
    report.last_pass_took = pass_time(report.last_pass);
    if (rng_.below(4) == 0) report.running_prefill_tokens_left = rng_.below(20'000);
    report.prefill_tokens_left = report.running_prefill_tokens_left + 3000 * report.waiting;
    router_.report(slot, report);
  }

  const std::uint32_t workers_;
  SteadyClock clock_;
  TimePoint now_ = clock_.now();
  Rng rng_{1};
  fleet::Ledger ledger_;
  kv::PrefixIndex index_{{.context = "bench", .shards = 1}};
  router::Router router_{router::find_policy("latency")->make(), ledger_, index_, 1};
  std::vector<std::vector<std::uint64_t>> prompts_;
  std::vector<std::uint64_t> generations_;
  std::vector<std::uint64_t> accepted_;
  std::vector<fleet::Lease> leases_ = std::vector<fleet::Lease>(std::max(16U, workers_ / 2));
  std::size_t next_ = 0;
  std::vector<std::uint32_t> depths_ = std::vector<std::uint32_t>(workers_);
  std::vector<char> from_ = std::vector<char>(std::size_t{workers_} * 192);
  std::vector<char> to_ = std::vector<char>(from_.size());
};

Percentiles measure(Fleet& fleet, const auto& once) {
  std::vector<double> values;
  values.reserve(kRounds);
  for (int i = 0; i < kRounds + kWarmUp; ++i) {
    fleet.live();
    const double ns = once();
    if (i >= kWarmUp) values.push_back(ns);
  }
  return Percentiles(std::move(values));
}

void row(std::uint32_t workers) {
  Fleet fleet(workers);
  const Percentiles match = measure(fleet, [&] { return fleet.match(fleet.any_prompt()); });
  const Percentiles copy = measure(fleet, [&] { return fleet.copy(); });
  std::uint64_t allocated = 0;
  int round = 0;
  const Percentiles place = measure(fleet, [&] {
    const std::uint32_t prompt = fleet.any_prompt();
    const std::uint64_t before = allocations.load();
    const double ns = fleet.place(prompt);
    allocated += round++ >= kWarmUp ? allocations - before : 0;
    return ns;
  });
  fmt::print("| {} | {:.1f} | {:.1f} | {:.1f} | {} | {:.1f} / {:.1f} | {:.1f} |\n", workers,
             place.us(50), place.us(99), place.us(99.9), allocated, match.us(50), match.us(99),
             copy.us(50));
}

}  // namespace
}  // namespace penstock::bench

int main() {
  fmt::print("Placing a prompt of 100,000 tokens (1,562 blocks, hashed), µs.\n\n");
  fmt::print(
      "| workers | p50 | p99 | p99.9 | allocations | index match alone p50 / p99 | copying 192 B a "
      "worker |\n|--:|--:|--:|--:|--:|--:|--:|\n");
  for (const std::uint32_t workers : {8U, 1000U, 10'000U}) penstock::bench::row(workers);
}
