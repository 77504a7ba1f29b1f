#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <set>
#include <string_view>
#include <vector>

#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "kv/local_hash.h"
#include "serve/dispatcher.h"

namespace penstock::serve {

inline constexpr std::uint32_t kBlock = 16;
inline constexpr std::uint32_t kPlaces = 4;

/// A worker that says what a test wants it to say, and computes nothing.
class FakeEngine : public engine::Engine {
 public:
  FakeEngine(std::size_t events_max, bool hands_kv_over) : events(events_max, true, &change_) {
    info_.hands_kv_over = hands_kv_over;
  }

  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(engine::GenerateRequest) override { return {}; }
  void abort(RequestId, engine::CancelReason) override {}
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override { return {}; }
  [[nodiscard]] engine::LoadReport load() const override { return report; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return &events; }

  /// As one whose KV cannot be kept, or may not.
  void keep_no_kv() { info_.kv_blocks_max = 0; }

  /// Holds the prompt's full blocks from now on.
  void hold(std::span<const Token> prompt, std::string_view salt = {}) {
    kv::BlockHash parent = kv::chain_root(info_.model, {}, salt);
    const kv::LocalHasher locals({}, salt);
    for (std::size_t at = 0; at + kBlock <= prompt.size(); at += kBlock) {
      const auto tokens = prompt.subspan(at, kBlock);
      const kv::BlockHash hash = kv::chain_next(parent, tokens);
      if (held_.insert(hash).second) {
        events.stored({.hash = hash,
                       .parent = parent,
                       .begins_chain = at == 0,
                       .local = locals.block(tokens),
                       .tokens = {tokens.begin(), tokens.end()}});
      }
      parent = hash;
    }
  }

  /// Holds nothing any more.
  void forget() {
    held_.clear();
    events.cleared();
  }

  /// As a store does that has the blocks named here.
  [[nodiscard]] tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                               std::size_t have) const override {
    std::vector<tiers::Tier> there;
    for (const tiers::Key& key : keys.subspan(have)) {
      const auto found = lower.find(key);
      if (found == lower.end()) break;
      there.push_back(found->second);
    }
    return choose_load(there, load_costs);
  }
  /// The prompt's full blocks from the `first` on are in a lower tier.
  void keep(std::span<const Token> prompt, tiers::Tier tier, std::size_t first = 0,
            std::string_view salt = {}) {
    std::vector<tiers::Key> keys;
    tiers::name_blocks(tiers::root_key(info_.kv_tiers_key, salt), prompt, kBlock, keys);
    for (const tiers::Key& key : std::span(keys).subspan(first)) lower[key] = tier;
  }

  std::map<tiers::Key, tiers::Tier> lower;
  tiers::LoadCosts load_costs{
      .host_ns = 1e5, .disk_ns = 1e6, .disk_queue_ns = 0, .recompute_ns = 4e6};
  engine::KvEventLog events;
  engine::LoadReport report{.generation = 1, .pass_tokens_max = 512};

 private:
  engine::EngineInfo info_{.model = "fake",
                           .block_tokens = kBlock,
                           .sequences_max = kPlaces,
                           .kv_blocks_max = 1000,
                           .kv_tiers_key = "fake blocks"};
  std::set<kv::BlockHash> held_;
};

inline std::vector<Token> prompt_of(std::size_t tokens, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Token> prompt(tokens);
  for (Token& t : prompt) t = static_cast<Token>(random() % 50'000);
  return prompt;
}

class DispatcherTest : public testing::Test {
 protected:
  void make(std::size_t workers, const DispatchOptions& options = {},
            std::size_t events_max = 8192) {
    std::vector<std::unique_ptr<engine::Engine>> all;
    for (std::size_t i = 0; i < workers; ++i) {
      auto engine = std::make_unique<FakeEngine>(events_max, i < hand_over_);
      engines_.push_back(engine.get());
      all.push_back(std::move(engine));
    }
    const engine::EngineInfo info = all.front()->info();
    dispatcher_ = std::make_unique<Dispatcher>(info, std::move(all), options, clock_);
  }

  Result<Assignment> place(const std::vector<Token>& prompt, DispatchRequest wanted = {},
                           std::string_view salt = {}) {
    PromptBlocks blocks;
    dispatcher_->name_blocks(prompt, salt, blocks);
    wanted.prompt = prompt;
    wanted.locals = blocks.locals;
    wanted.keys = blocks.keys;
    return dispatcher_->place(wanted);
  }

  ManualClock clock_;
  std::size_t hand_over_ = 0;  // so many of the workers hand KV over
  std::vector<FakeEngine*> engines_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace penstock::serve
