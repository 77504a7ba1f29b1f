// What one choice costs the server: Dispatcher::place() with `latency`, for a prompt of 100,000
// tokens that is already hashed. Beside the router's part (select.cc) it takes the lock, reads the
// workers that have something new, and writes down why it chose. The floor is to read those.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "kv/local_hash.h"
#include "pass_time.h"
#include "percentiles.h"
#include "serve/dispatcher.h"

namespace penstock::bench {
namespace {

constexpr std::uint32_t kBlockTokens = 64;
constexpr std::uint32_t kPromptTokens = 100'000;
constexpr std::uint32_t kPrompts = 16;
constexpr std::uint32_t kSystemTokens = 64 * kBlockTokens;  // that all prompts and workers share
constexpr std::uint32_t kHolders = 16;                      // of each prompt, all or part of it
constexpr int kRounds = 5'000;
constexpr int kWarmUp = 1'000;

/// A worker in the middle of its work, which computes nothing.
class BusyEngine final : public engine::Engine {
 public:
  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(engine::GenerateRequest) override { return {}; }
  void abort(RequestId, engine::CancelReason) override {}
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override { return {}; }
  [[nodiscard]] engine::LoadReport load() const override {
    const std::lock_guard lock(mutex_);
    engine::LoadReport report = report_;
    report.generation = ++reads_;  // as engines do that count what they were given
    return report;
  }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return &events_; }

  [[nodiscard]] bool announces_changes() const override { return true; }

  void hold(std::span<const kv::Event> blocks) {
    for (const kv::Event& block : blocks) {
      if (held_.insert(block.hash).second) events_.stored(block);
    }
  }
  void report(Rng& rng, TimePoint now) {
    engine::LoadReport& r = report_;
    r.running = 5 + rng.below(40);
    r.waiting = rng.below(3);
    r.kv_blocks_active = 5000 + rng.below(8000);
    r.kv_blocks_active_max = 16384;
    r.pass_tokens_max = 8192;
    r.pass_started = now - std::chrono::microseconds(rng.below(9000));
    const double use = 0.3 + rng.fraction() / 2;
    r.pass = {.prefill_tokens = rng.below(8192), .decodes = true, .kv_use = use};
    report_pass(r.last_prefill_pass, {.prefill_tokens = 1 + rng.below(8192), .kv_use = use});
    report_pass(r.last_decode_pass, {.decodes = true, .kv_use = use});
    change_.set();
  }

 private:
  static void report_pass(engine::TimedPass& last, const engine::PassWork& work) {
    last = {.ordinal = last.ordinal + 1, .work = work, .took = pass_time(work)};
  }

  const engine::EngineInfo info_{
      .model = "bench", .block_tokens = kBlockTokens, .sequences_max = 64, .kv_blocks_max = 20'000};
  engine::KvEventLog events_{engine::KvEventLog::kEventsMax, false, &change_};
  mutable std::mutex mutex_;
  mutable std::uint64_t reads_ = 0;
  engine::LoadReport report_;
  std::set<kv::BlockHash> held_;
};

class Server final {
 public:
  /// One in `each` workers reports from one choice to the next.
  Server(std::uint32_t workers, std::uint32_t each, std::uint32_t decisions_max)
      : reporting_(std::max(1U, workers / each)) {
    std::vector<std::unique_ptr<engine::Engine>> engines;
    for (std::uint32_t i = 0; i < workers; ++i) {
      engines.push_back(std::make_unique<BusyEngine>());
      workers_.push_back(static_cast<BusyEngine*>(engines.back().get()));
    }
    const engine::EngineInfo info = engines.front()->info();
    dispatcher_ = std::make_unique<serve::Dispatcher>(
        info, std::move(engines), serve::DispatchOptions{.decisions_max = decisions_max}, clock_);
    for (std::uint32_t p = 0; p < kPrompts; ++p) add_prompt();
    for (int i = 0; i < 30; ++i) {
      for (BusyEngine* worker : workers_) worker->report(rng_, clock_.now());
      (void)dispatcher_->view();
    }
  }

  /// One choice; ns.
  double place() {
    for (BusyEngine*& worker : reporting_) {
      worker = &any_worker();
      worker->report(rng_, clock_.now());
    }
    const Prompt& prompt = prompts_[rng_.below(kPrompts)];
    const TimePoint begin = clock_.now();
    Result<serve::Assignment> placed =
        dispatcher_->place({.id = "a request", .prompt = prompt.tokens, .locals = prompt.locals});
    const double ns = to_ms(clock_.now() - begin) * 1e6;
    live_[next_++ % live_.size()] = std::move(*placed);
    return ns;
  }
  /// Reading what those say who have just reported; ns.
  double read() {
    const TimePoint begin = clock_.now();
    for (const BusyEngine* worker : reporting_) {
      sum_ += worker->load().generation + worker->kv_events()->last_sequence();
    }
    return to_ms(clock_.now() - begin) * 1e6;
  }

 private:
  struct Prompt {
    std::vector<Token> tokens;
    std::vector<std::uint64_t> locals;
  };

  BusyEngine& any_worker() {
    return *workers_[rng_.below(static_cast<std::uint32_t>(workers_.size()))];
  }

  void add_prompt() {
    Prompt& prompt = prompts_.emplace_back();
    prompt.tokens.assign(kSystemTokens, 1);
    while (prompt.tokens.size() < kPromptTokens) {
      prompt.tokens.push_back(static_cast<Token>(rng_.below(50'000)));
    }
    serve::PromptBlocks named;
    dispatcher_->name_blocks(prompt.tokens, {}, named);
    prompt.locals = std::move(named.locals);
    std::vector<kv::Event> blocks;
    kv::BlockHash parent = kv::chain_root("bench", {}, {});
    for (std::size_t i = 0; i < prompt.locals.size(); ++i) {
      const auto tokens = std::span(prompt.tokens).subspan(i * kBlockTokens, kBlockTokens);
      const kv::BlockHash hash = kv::chain_next(parent, tokens);
      blocks.push_back({.kind = kv::Event::Kind::kStored,
                        .hash = hash,
                        .parent = parent,
                        .begins_chain = i == 0,
                        .local = prompt.locals[i],
                        .tokens = {}});
      parent = hash;
    }
    const std::span<const kv::Event> all = blocks;
    const std::size_t system = kSystemTokens / kBlockTokens;
    if (prompts_.size() == 1) {
      for (BusyEngine* worker : workers_) worker->hold(all.first(system));
    }
    for (std::uint32_t i = 0; i < kHolders; ++i) {
      const auto more = static_cast<std::uint32_t>(blocks.size() - system);
      any_worker().hold(all.first(i < kHolders / 4 ? blocks.size() : system + rng_.below(more)));
    }
  }

  SteadyClock clock_;
  Rng rng_{1};
  std::vector<BusyEngine*> workers_;
  std::vector<BusyEngine*> reporting_;  // since the last choice
  std::unique_ptr<serve::Dispatcher> dispatcher_;
  std::vector<Prompt> prompts_;
  std::vector<serve::Assignment> live_ = std::vector<serve::Assignment>(64);
  std::size_t next_ = 0;
  std::uint64_t sum_ = 0;  // of what was read, so that it is
};

void row(std::uint32_t workers, std::uint32_t each) {
  fmt::print("| {} | {} |", workers, std::max(1U, workers / each));
  std::vector<double> floor;
  for (const std::uint32_t decisions_max : {256U, 0U}) {
    Server server(workers, each, decisions_max);
    std::vector<double> values;
    for (int i = 0; i < kRounds + kWarmUp; ++i) {
      const double ns = server.place();
      if (i < kWarmUp) continue;
      values.push_back(ns);
      floor.push_back(server.read());
    }
    const Percentiles place(std::move(values));
    fmt::print(" {:.1f} / {:.1f} |", place.us(50), place.us(99));
  }
  fmt::print(" {:.1f} |\n", Percentiles(std::move(floor)).us(50));
}

}  // namespace
}  // namespace penstock::bench

int main() {
  fmt::print("Dispatcher::place() of a prompt of 100,000 tokens (1,562 blocks, hashed), µs.\n\n");
  fmt::print(
      "| workers | of them have reported | with --decisions 256 (the default), p50 / p99 | with "
      "--decisions 0 | reading those alone |\n|--:|--:|--:|--:|--:|\n");
  for (const std::uint32_t workers : {8U, 64U, 256U, 1000U, 10'000U}) {
    penstock::bench::row(workers, 100);
  }
  penstock::bench::row(1000, 10);
}
