// What one choice costs the server: Dispatcher::place() with `latency`, for a prompt of 100,000
// tokens that is already hashed. Beside the router's part (select.cc) it takes the lock, asks every
// worker for its load and its new KV events, and writes down why it chose.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "kv/local_hash.h"
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
  [[nodiscard]] engine::LoadReport load() const override { return report_; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return &events_; }

  void hold(std::span<const kv::Event> blocks) {
    for (const kv::Event& block : blocks) {
      if (held_.insert(block.hash).second) events_.stored(block);
    }
  }
  void report(Rng& rng, TimePoint now) {
    engine::LoadReport& r = report_;
    ++r.generation;
    r.running = 5 + rng.below(40);
    r.waiting = rng.below(3);
    r.kv_blocks_active = 5000 + rng.below(8000);
    r.kv_blocks_active_max = 16384;
    r.pass_tokens_max = 8192;
    r.pass_started = now - std::chrono::microseconds(rng.below(9000));
    const double use = 0.3 + rng.fraction() / 2;
    r.pass = {.prefill_tokens = rng.below(8192), .decodes = true, .kv_use = use};
    r.last_prefill_pass = {.ordinal = r.last_prefill_pass.ordinal + 1,
                           .work = {.prefill_tokens = rng.below(8192), .kv_use = use},
                           .took = std::chrono::microseconds(16'000 + rng.below(150'000))};
    r.last_decode_pass = {.ordinal = r.last_decode_pass.ordinal + 1,
                          .work = {.decodes = true, .kv_use = use},
                          .took = std::chrono::microseconds(20'000 + rng.below(10'000))};
  }

 private:
  const engine::EngineInfo info_{
      .model = "bench", .block_tokens = kBlockTokens, .sequences_max = 64};
  engine::KvEventLog events_{engine::KvEventLog::kEventsMax, false};
  engine::LoadReport report_;
  std::set<kv::BlockHash> held_;
};

class Server final {
 public:
  Server(std::uint32_t workers, std::uint32_t decisions_max) {
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

  /// One choice; ns. One in a hundred workers has reported since the one before.
  double place() {
    for (std::size_t i = 0; i < std::max<std::size_t>(1, workers_.size() / 100); ++i) {
      any_worker().report(rng_, clock_.now());
    }
    const Prompt& prompt = prompts_[rng_.below(kPrompts)];
    const TimePoint begin = clock_.now();
    Result<serve::Assignment> placed =
        dispatcher_->place({.id = "a request", .prompt = prompt.tokens, .locals = prompt.locals});
    const double ns = to_ms(clock_.now() - begin) * 1e6;
    live_[next_++ % live_.size()] = std::move(*placed);
    return ns;
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
  std::unique_ptr<serve::Dispatcher> dispatcher_;
  std::vector<Prompt> prompts_;
  std::vector<serve::Assignment> live_ = std::vector<serve::Assignment>(64);
  std::size_t next_ = 0;
};

void row(std::uint32_t workers) {
  fmt::print("| {} |", workers);
  for (const std::uint32_t decisions_max : {256U, 0U}) {
    Server server(workers, decisions_max);
    std::vector<double> values;
    for (int i = 0; i < kRounds + kWarmUp; ++i) {
      const double ns = server.place();
      if (i >= kWarmUp) values.push_back(ns);
    }
    const Percentiles place(std::move(values));
    fmt::print(" {:.1f} / {:.1f} |", place.us(50), place.us(99));
  }
  fmt::print("\n");
}

}  // namespace
}  // namespace penstock::bench

int main() {
  fmt::print("Dispatcher::place() of a prompt of 100,000 tokens (1,562 blocks, hashed), µs.\n\n");
  fmt::print(
      "| workers | with --decisions 256 (the default), p50 / p99 | with --decisions 0 |\n"
      "|--:|--:|--:|\n");
  for (const std::uint32_t workers : {8U, 64U, 256U, 1000U}) penstock::bench::row(workers);
}
