#include "serve/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "engine/kv_event_log.h"
#include "kv/block.h"
#include "kv/local_hash.h"

namespace penstock::serve {
namespace {

constexpr std::uint32_t kBlock = 16;
constexpr std::uint32_t kPlaces = 4;

/// A worker that says what a test wants it to say, and computes nothing.
class FakeEngine final : public engine::Engine {
 public:
  FakeEngine(std::size_t events_max, bool hands_kv_over) : events(events_max) {
    info_.hands_kv_over = hands_kv_over;
  }

  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(engine::GenerateRequest) override { return {}; }
  void abort(RequestId, engine::CancelReason) override {}
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override { return {}; }
  [[nodiscard]] engine::LoadReport load() const override { return report; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return &events; }

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
    tiers::Key key = tiers::root_key(info_.kv_tiers_key, salt);
    for (std::size_t block = 0; (block + 1) * kBlock <= prompt.size(); ++block) {
      key = tiers::next_key(key, prompt.subspan(block * kBlock, kBlock));
      if (block >= first) lower[key] = tier;
    }
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
                           .kv_tiers_key = "fake blocks"};
  std::set<kv::BlockHash> held_;
};

std::vector<Token> prompt_of(std::size_t tokens, std::uint32_t seed) {
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

TEST_F(DispatcherTest, TheNextTurnGoesWhereTheConversationIs) {
  make(4);
  std::set<kv::Slot> used;
  for (std::uint32_t conversation = 0; conversation < 20; ++conversation) {
    std::vector<Token> prompt = prompt_of(100, conversation);
    kv::Slot home = 0;
    for (std::uint32_t turn = 0; turn < 4; ++turn) {
      Result<Assignment> placed = place(prompt);
      ASSERT_TRUE(placed.has_value());
      if (turn == 0) home = placed->worker();
      EXPECT_EQ(placed->worker(), home);
      const std::uint32_t held = turn == 0 ? 0 : (100 + 50 * (turn - 1)) / kBlock * kBlock;
      placed->first_token({.prompt_tokens = static_cast<std::uint32_t>(prompt.size()),
                           .cached_tokens = held + 3});  // it had part of one more block
      placed->finished();
      engines_[home]->hold(prompt);
      const auto more = prompt_of(50, 1000 + turn);
      prompt.insert(prompt.end(), more.begin(), more.end());
    }
    used.insert(home);
  }
  EXPECT_GT(used.size(), 1U);
  CacheForecast all;
  for (const WorkerView& worker : dispatcher_->view().workers) {
    EXPECT_EQ(worker.trust, fleet::Trust::kExact);
    all.compared += worker.forecast.compared;
    all.equal += worker.forecast.equal;
    all.predicted_tokens += worker.forecast.predicted_tokens;
    all.reported_tokens += worker.forecast.reported_tokens;
  }
  EXPECT_EQ(all.compared, 80U);
  EXPECT_EQ(all.equal, 80U);
  EXPECT_EQ(all.predicted_tokens, all.reported_tokens);
  EXPECT_GT(all.predicted_tokens, 0U);
}

TEST_F(DispatcherTest, APromptAndItsAnswerAreChargedOneAfterTheOther) {
  hand_over_ = 2;
  make(2, {.policy = "round-robin", .roles = {fleet::Role::kPrefill, fleet::Role::kDecode}});
  const std::vector<Token> prompt = prompt_of(100, 1);
  EXPECT_FALSE(place(prompt)->prompt_only());
  Result<Assignment> first = place(prompt, {.may_split = true});
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->prompt_only());
  EXPECT_EQ(first->worker(), 0U);
  EXPECT_EQ(dispatcher_->in_flight(), 1U);
  clock_.advance(std::chrono::milliseconds(100));
  first->handed_over({.prompt_tokens = 100});
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
  Result<Assignment> second = place(prompt, {.prompt_at = &*first});
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->worker(), 1U);
  clock_.advance(std::chrono::milliseconds(50));
  second->first_token({.prompt_tokens = 100, .cached_tokens = 96});
  const std::vector<Decision> decisions = dispatcher_->decisions();
  EXPECT_EQ(decisions[0].stage, router::Stage::kDecode);
  EXPECT_EQ(decisions[0].ttft_ms, 150);  // from the first leg's beginning
  EXPECT_EQ(decisions[1].stage, router::Stage::kPrefill);
  EXPECT_EQ(decisions[1].ttft_ms, 100);
}

TEST_F(DispatcherTest, WorkersWhoseKvDoesNotComeThroughAreNotUsedTogetherForAWhile) {
  hand_over_ = 2;
  make(2, {.policy = "round-robin", .roles = {fleet::Role::kPrefill, fleet::Role::kDecode}});
  // Whether it was split; then so many tokens of its prompt are found where it is answered.
  const auto ask = [&](std::uint32_t found) {
    Result<Assignment> prompt = place(prompt_of(100, 1), {.may_split = true});
    if (!prompt->prompt_only()) return false;
    prompt->handed_over({.prompt_tokens = 100});
    Result<Assignment> answer =
        place(prompt_of(100, 1), {.prompt_at = &*prompt, .kept_tokens = 96});
    EXPECT_EQ(answer->worker(), 1U);
    answer->first_token({.prompt_tokens = 100, .cached_tokens = found});
    return true;
  };
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(ask(0));  // the machine stood still
  for (int i = 0; i < 10; ++i) {                     // now and then it is late
    clock_.advance(router::HandOvers::kMoment);
    EXPECT_TRUE(ask(i % 2 == 0 ? 96 : 0));
  }
  EXPECT_TRUE(ask(96));
  for (const std::uint32_t found : {0, 0, 10}) {
    clock_.advance(router::HandOvers::kMoment);
    EXPECT_TRUE(ask(found));
  }
  EXPECT_FALSE(ask(0));
  clock_.advance(router::HandOvers::kApartFirst);
  EXPECT_TRUE(ask(0));  // one try, and twice the time without
  clock_.advance(router::HandOvers::kApartFirst);
  EXPECT_FALSE(ask(0));
  clock_.advance(router::HandOvers::kApartFirst);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(ask(96));
}

TEST_F(DispatcherTest, WhatMovingKvTakesIsLearnedFromFetches) {
  make(2);
  const auto fetched = [&](std::uint64_t i, std::uint32_t blocks, int took_ms) {
    engines_[0]->report.generation = i + 1;
    engines_[0]->report.last_fetch = {
        .ordinal = i, .blocks = blocks, .took = std::chrono::milliseconds(took_ms)};
    (void)dispatcher_->view();
  };
  for (std::uint64_t i = 1; i <= 40; ++i) fetched(i, 10, 102);
  EXPECT_NEAR(dispatcher_->view().transfer.block_ms, 10, 1);
  // Of one block most is not the block: it says less.
  for (std::uint64_t i = 41; i <= 120; ++i) fetched(i, i % 2 == 0 ? 1 : 10, 12);
  EXPECT_LT(dispatcher_->view().transfer.block_ms, 3);
  EXPECT_GT(dispatcher_->view().transfer.block_ms, 0.5);
}

TEST_F(DispatcherTest, WhoHandsNoKvOverTakesWholeRequestsAndHindersNobody) {
  hand_over_ = 2;
  make(3, {.policy = "round-robin", .roles = {fleet::Role::kPrefill, fleet::Role::kDecode}});
  EXPECT_EQ(dispatcher_->view().workers[2].role, fleet::Role::kWhole);
  for (std::uint32_t i = 0; i < 4; ++i) {
    Result<Assignment> prompt = place(prompt_of(100, i), {.may_split = true});
    EXPECT_TRUE(prompt->prompt_only());
    EXPECT_EQ(prompt->worker(), 0U);
    Result<Assignment> answer = place(prompt_of(100, i), {.prompt_at = &*prompt});
    EXPECT_EQ(answer->worker(), 1U);
  }
  EXPECT_NE(place(prompt_of(100, 9))->worker(), place(prompt_of(100, 9))->worker());
  EXPECT_EQ(dispatcher_->set_role(2, fleet::Role::kDecode).error().code, Code::kUnprocessable);
  EXPECT_TRUE(dispatcher_->set_role(2, fleet::Role::kBoth).has_value());
  EXPECT_EQ(dispatcher_->view().workers[2].role, fleet::Role::kWhole);
}

TEST_F(DispatcherTest, RolesChangeWhileSomebodyIsLeftToAnswer) {
  hand_over_ = 2;
  make(2);
  EXPECT_EQ(dispatcher_->set_role(2, fleet::Role::kBoth).error().code, Code::kNotFound);
  EXPECT_TRUE(dispatcher_->set_role(0, fleet::Role::kPrefill).has_value());
  EXPECT_EQ(dispatcher_->set_role(1, fleet::Role::kPrefill).error().code, Code::kInvalidArgument);
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(place(prompt_of(100, i))->worker(), 1U);
  EXPECT_TRUE(dispatcher_->set_role(0, fleet::Role::kDecode).has_value());
  EXPECT_TRUE(dispatcher_->set_role(1, fleet::Role::kPrefill).has_value());
  for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(place(prompt_of(100, i))->worker(), 0U);
}

TEST_F(DispatcherTest, AWorkerHereThatFailsWhatItGetsGetsNothingUntilACanaryIsWell) {
  make(2);
  const auto fail_at_0 = [&](FaultClass fault) {
    for (int i = 0; i < 3; ++i) place(prompt_of(10, 1), {.rank = 0})->failed(fault);
  };
  fail_at_0(FaultClass::kClient);
  fail_at_0(FaultClass::kOverload);
  EXPECT_EQ(dispatcher_->view().workers[0].state, fleet::WorkerState::kReady);
  fail_at_0(FaultClass::kWorker);
  EXPECT_EQ(dispatcher_->view().workers[0].state, fleet::WorkerState::kSuspect);
  for (std::uint32_t i = 0; i < 10; ++i) EXPECT_EQ(place(prompt_of(100, i))->worker(), 1U);

  const auto canary_ends = [&](bool well) {
    std::vector<Dispatcher::Chore> chores = dispatcher_->chores();
    ASSERT_EQ(chores.size(), 1U);
    EXPECT_EQ(chores[0].canary.worker(), 0U);
    EXPECT_EQ(dispatcher_->in_flight(), 1U);
    chores[0].canary.canary_ended(well);
  };
  clock_.advance(std::chrono::seconds(1));
  canary_ends(false);
  clock_.advance(std::chrono::seconds(1));
  EXPECT_TRUE(dispatcher_->chores().empty());  // twice as long now
  clock_.advance(std::chrono::seconds(1));
  canary_ends(true);
  EXPECT_EQ(dispatcher_->view().workers[0].state, fleet::WorkerState::kReady);
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
}

TEST_F(DispatcherTest, WorkersHereAreNotAskedWhetherTheyLive) {
  make(2);
  for (int hour = 0; hour < 10; ++hour) {
    clock_.advance(std::chrono::hours(1));
    EXPECT_TRUE(dispatcher_->chores().empty());
  }
  for (const WorkerView& worker : dispatcher_->view().workers) {
    EXPECT_EQ(worker.state, fleet::WorkerState::kReady);
    EXPECT_EQ(worker.instance, "");
  }
}

TEST_F(DispatcherTest, WhatIsHeldForOneSaltIsNothingToOthers) {
  make(3);
  const std::vector<Token> prompt = prompt_of(200, 1);
  engines_[2]->hold(prompt, "tenant");
  EXPECT_EQ(place(prompt, {}, "tenant")->worker(), 2U);
  ASSERT_TRUE(place(prompt, {}, "other").has_value());
  ASSERT_TRUE(place(prompt).has_value());
  const std::vector<Decision> decisions = dispatcher_->decisions();
  ASSERT_EQ(decisions.size(), 3U);
  EXPECT_EQ(decisions[0].predicted_cached_tokens, 0U);
  EXPECT_EQ(decisions[1].predicted_cached_tokens, 0U);
  EXPECT_EQ(decisions[2].predicted_cached_tokens, 192U);
}

TEST_F(DispatcherTest, WhatLiesInALowerTierIsLoadedAndNotComputed) {
  make(2);
  const std::vector<Token> prompt = prompt_of(20 * kBlock + 5, 1);
  // What goes first from a cache are the ends of chains; after a start it has nothing.
  engines_[1]->hold(std::span(prompt).first(4 * kBlock));
  engines_[1]->keep(prompt, tiers::Tier::kHost, 4);
  Result<Assignment> placed = place(prompt);
  ASSERT_TRUE(placed.has_value());
  EXPECT_EQ(placed->worker(), 1U);
  const Decision decision = dispatcher_->decisions()[0];
  EXPECT_EQ(decision.predicted_cached_tokens, 20 * kBlock);
  ASSERT_TRUE(decision.fetch.has_value());
  EXPECT_EQ(decision.fetch->tier, tiers::Tier::kHost);
  EXPECT_EQ(decision.fetch->blocks, 16U);
  EXPECT_DOUBLE_EQ(decision.fetch->load_ms, 1.6);
  EXPECT_DOUBLE_EQ(decision.fetch->recompute_ms, 64);
  EXPECT_THAT(
      decisions_json("latency", dispatcher_->terms(), {&decision, 1}),
      testing::AllOf(testing::HasSubstr(R"("fetch":{"tier":"host","blocks":16,"load_ms":1.6)"),
                     testing::HasSubstr(R"("load_ms":1.6,"uncached_tokens":5)")));
  // The worker takes what was foreseen: the prediction has come true to the token.
  placed->first_token({.prompt_tokens = 20 * kBlock + 5, .cached_tokens = 20 * kBlock});
  const CacheForecast forecast = dispatcher_->view().workers[1].forecast;
  EXPECT_EQ(forecast.compared, 1U);
  EXPECT_EQ(forecast.equal, 1U);
}

TEST_F(DispatcherTest, WhatIsSlowerToLoadThanToComputeIsNotLoaded) {
  make(1);
  const std::vector<Token> prompt = prompt_of(20 * kBlock, 1);
  engines_[0]->keep(prompt, tiers::Tier::kDisk);
  ASSERT_TRUE(place(prompt).has_value());
  EXPECT_EQ(dispatcher_->decisions()[0].fetch->tier, tiers::Tier::kDisk);
  EXPECT_EQ(dispatcher_->decisions()[0].fetch->blocks, 20U);
  engines_[0]->load_costs.disk_queue_ns = 1e9;
  ASSERT_TRUE(place(prompt).has_value());
  EXPECT_FALSE(dispatcher_->decisions()[0].fetch.has_value());
  EXPECT_EQ(dispatcher_->decisions()[0].predicted_cached_tokens, 0U);
}

TEST_F(DispatcherTest, ALowerTierHasNothingForAnotherSalt) {
  make(1);
  const std::vector<Token> prompt = prompt_of(10 * kBlock, 1);
  engines_[0]->keep(prompt, tiers::Tier::kHost, 0, "tenant");
  for (const std::string_view salt : {"", "another"}) {
    ASSERT_TRUE(place(prompt, {}, salt).has_value());
    EXPECT_FALSE(dispatcher_->decisions()[0].fetch.has_value());
  }
  ASSERT_TRUE(place(prompt, {}, "tenant").has_value());
  EXPECT_TRUE(dispatcher_->decisions()[0].fetch.has_value());
}

TEST_F(DispatcherTest, AnAnswersDecisionNamesThePeerThatItsKvComesFrom) {
  hand_over_ = 2;
  make(2, {.policy = "round-robin", .roles = {fleet::Role::kPrefill, fleet::Role::kDecode}});
  const std::vector<Token> prompt = prompt_of(100 * kBlock, 1);
  Result<Assignment> first = place(prompt, {.may_split = true});
  ASSERT_TRUE(first->prompt_only());
  first->handed_over({.prompt_tokens = 100 * kBlock});
  Result<Assignment> answer = place(prompt, {.prompt_at = &*first, .kept_tokens = 100 * kBlock});
  ASSERT_TRUE(answer.has_value());
  const Decision decision = dispatcher_->decisions()[0];
  ASSERT_TRUE(decision.fetch.has_value());
  EXPECT_EQ(decision.fetch->worker, 0U);
  EXPECT_EQ(decision.fetch->blocks, 100U);
  EXPECT_THAT(decisions_json("latency", dispatcher_->terms(), {&decision, 1}),
              testing::HasSubstr(R"("fetch":{"worker":0,"blocks":100,"load_ms":)"));
}

TEST_F(DispatcherTest, AWholePromptHeldStillHasATokenToCompute) {
  make(2);
  const std::vector<Token> prompt = prompt_of(4 * kBlock, 1);
  engines_[1]->hold(prompt);
  Result<Assignment> placed = place(prompt);
  EXPECT_EQ(placed->worker(), 1U);
  placed->first_token({.prompt_tokens = 64, .cached_tokens = 63});
  EXPECT_EQ(dispatcher_->decisions()[0].predicted_cached_tokens, 48U);
  EXPECT_EQ(dispatcher_->view().workers[1].forecast.equal, 1U);
}

TEST_F(DispatcherTest, WhatIsStoredWhileRequestsWaitIsNoDisagreement) {
  make(1);
  for (std::uint32_t burst = 0; burst < 4; ++burst) {
    // All share a prefix that nobody has: they wait until the first has computed it.
    const std::vector<Token> prompt = prompt_of(10 * kBlock + 1, burst);
    std::vector<Assignment> siblings;
    for (int i = 0; i < 16; ++i) siblings.push_back(*place(prompt));
    for (Assignment& sibling : siblings) {
      const std::uint32_t cached = &sibling == siblings.data() ? 0 : 10 * kBlock;
      sibling.first_token({.prompt_tokens = 10 * kBlock + 1, .cached_tokens = cached});
      engines_[0]->hold(prompt);
    }
  }
  const WorkerView worker = dispatcher_->view().workers[0];
  EXPECT_EQ(worker.trust, fleet::Trust::kExact);
  EXPECT_EQ(worker.agreement, 1);
  EXPECT_EQ(worker.snapshots, 0U);
  EXPECT_EQ(worker.forecast.compared, 64U);
  EXPECT_EQ(worker.forecast.equal, 4U);  // of what was predicted
}

TEST_F(DispatcherTest, FindingWhatWasNeverToldIsDisagreement) {
  make(1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    Result<Assignment> placed = place(prompt_of(100, i));
    engines_[0]->hold(prompt_of(100, 1000 + i));  // something else
    placed->first_token({.prompt_tokens = 100, .cached_tokens = 96});
  }
  EXPECT_EQ(dispatcher_->view().workers[0].trust, fleet::Trust::kDegraded);
  EXPECT_EQ(dispatcher_->view().workers[0].doubt, "disagreement");
}

TEST_F(DispatcherTest, ABurstSpreadsThoughNobodyHasReportedYet) {
  make(4);
  std::vector<Assignment> all;
  std::map<kv::Slot, int> counts;
  for (std::uint32_t i = 0; i < 40; ++i) {
    all.push_back(*place(prompt_of(400, i)));
    ++counts[all.back().worker()];
  }
  for (const auto& [worker, count] : counts) EXPECT_NEAR(count, 10, 3) << worker;
  EXPECT_EQ(dispatcher_->in_flight(), 40U);
  all.clear();
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
}

TEST_F(DispatcherTest, C3_NothingStaysChargedHoweverRequestsEnd) {
  make(3, {.decisions_max = 16});
  constexpr std::uint32_t kThreads = 4;
  constexpr std::uint32_t kEach = 500;
  {
    std::vector<std::jthread> threads;
    for (std::uint32_t t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        std::mt19937 random(t);
        std::vector<Assignment> live;
        for (std::uint32_t i = 0; i < kEach; ++i) {
          Result<Assignment> placed = place(prompt_of(1 + random() % 200, random() % 50));
          ASSERT_TRUE(placed.has_value());
          if (random() % 8 == 0) {
            placed->refused();
            continue;
          }
          if (random() % 2 == 0) placed->first_token({});
          if (random() % 4 == 0) placed->finished();
          live.push_back(std::move(*placed));
          if (live.size() > 10) live[random() % live.size()] = std::move(live.back());
        }
      });
    }
  }
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
  std::uint64_t decisions = 0;
  for (const WorkerView& worker : dispatcher_->view().workers) {
    EXPECT_EQ(worker.requests, 0U);
    EXPECT_EQ(worker.prefills, 0U);
    for (const auto& [rule, count] : worker.decisions) decisions += count;
  }
  EXPECT_EQ(decisions, kThreads * kEach);
}

TEST_F(DispatcherTest, DecisionsSayWhyAndWhatCameOfIt) {
  make(3, {.decisions_max = 2});
  const std::vector<Token> prompt = prompt_of(100, 1);
  engines_[1]->hold(prompt);
  ASSERT_TRUE(place(prompt, {.id = "first"}).has_value());
  ASSERT_TRUE(place(prompt, {.id = "second"}).has_value());
  Result<Assignment> third = place(prompt, {.id = "third"});
  clock_.advance(std::chrono::milliseconds(40));
  third->first_token({.prompt_tokens = 100, .cached_tokens = 99});
  const std::vector<Decision> decisions = dispatcher_->decisions();
  ASSERT_EQ(decisions.size(), 2U);
  EXPECT_EQ(decisions[0].request, "third");
  EXPECT_EQ(decisions[1].request, "second");
  EXPECT_FALSE(decisions[1].began);
  const Decision& last = decisions[0];
  EXPECT_EQ(last.worker, 1U);
  EXPECT_EQ(last.predicted_cached_tokens, 96U);
  EXPECT_TRUE(last.began);
  EXPECT_EQ(last.reported_cached_tokens, 99U);
  EXPECT_EQ(last.ttft_ms, 40);
  EXPECT_GT(last.predicted_ttft_ms, 0);
  ASSERT_EQ(last.candidates.size(), 3U);
  EXPECT_EQ(last.candidates[0].cached_tokens, 0U);
  EXPECT_EQ(last.candidates[1].cached_tokens, 96U);
  EXPECT_LT(last.candidates[1].cost, last.candidates[0].cost);
  const std::string json = decisions_json(dispatcher_->policy(), dispatcher_->terms(), decisions);
  for (const char* part :
       {R"({"policy":"latency","decisions":[{"number":3,)", R"("request":"third")",
        R"("predicted":{"cached_tokens":96,)", R"("reported":{"cached_tokens":99,"ttft_ms":40})",
        R"("first_token_ms":)"}) {
    EXPECT_THAT(json, testing::HasSubstr(part));
  }
}

TEST_F(DispatcherTest, AShortAnswerIsPricedAsOne) {
  make(1);
  const auto terms = dispatcher_->terms();
  const auto steps = static_cast<std::size_t>(std::ranges::find(terms, "steps ms") - terms.begin());
  ASSERT_LT(steps, terms.size());
  const std::vector<Token> prompt = prompt_of(100, 1);
  const auto steps_ms = [&](DispatchRequest wanted) {
    EXPECT_TRUE(place(prompt, wanted).has_value());
    return dispatcher_->decisions().front().candidates.at(0).terms.at(steps);
  };
  const double any = steps_ms({});
  EXPECT_GT(any, 0);
  EXPECT_DOUBLE_EQ(steps_ms({.output_tokens_max = 1}), any / 200);
}

TEST_F(DispatcherTest, ARankIsThatWorkerOrARefusal) {
  make(3);
  const std::vector<Token> prompt = prompt_of(100, 1);
  engines_[0]->hold(prompt);
  EXPECT_EQ(place(prompt, {.rank = 2})->worker(), 2U);
  const Result<Assignment> none = place(prompt, {.rank = 3});
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code, Code::kInvalidArgument);
  EXPECT_EQ(none.error().param, "x-data-parallel-rank");
}

TEST_F(DispatcherTest, WorkersHereHaveLabelsToo) {
  const Labels eu = {{"zone", "eu"}};
  const Labels us = {{"zone", "us"}};
  make(2, {.labels = eu});
  EXPECT_EQ(dispatcher_->view().workers[1].labels, eu);
  EXPECT_TRUE(place(prompt_of(100, 1), {.labels = eu}).has_value());
  EXPECT_EQ(place(prompt_of(100, 1), {.labels = us}).error().code, Code::kUnavailable);
}

TEST_F(DispatcherTest, WhatWouldComeTooLateIsShedAndNotCharged) {
  make(2);
  // 4,000 tokens are queued at each, and 100 take 100 ms.
  for (FakeEngine* engine : engines_) {
    engine->report.waiting_prefill_tokens = engine->report.running_prefill_tokens = 4000;
    engine->report.running = 1;
  }
  for (std::uint64_t pass = 1; pass <= 50; ++pass) {
    for (FakeEngine* engine : engines_) {
      const auto tokens = static_cast<std::uint32_t>(100 + pass);
      engine->report.generation = 1 + pass;
      engine->report.last_prefill_pass = {.ordinal = pass,
                                          .work = {.prefill_tokens = tokens},
                                          .took = std::chrono::milliseconds(tokens)};
    }
    ASSERT_TRUE(place(prompt_of(100, 1)).has_value());
  }
  const std::vector<Token> prompt = prompt_of(100, 2);
  Result<Assignment> patient =
      place(prompt, {.first_token_by = clock_.now() + std::chrono::seconds(20)});
  ASSERT_TRUE(patient.has_value());
  patient->release();
  const std::uint64_t before = dispatcher_->in_flight();
  const Result<Assignment> late =
      place(prompt, {.first_token_by = clock_.now() + std::chrono::seconds(1)});
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code, Code::kOverloaded);
  EXPECT_GE(late.error().retry_after_s, 1);
  EXPECT_EQ(dispatcher_->in_flight(), before);
  EXPECT_TRUE(dispatcher_->decisions()[0].shed);
  EXPECT_EQ(dispatcher_->view().workers[0].shed + dispatcher_->view().workers[1].shed, 1U);
}

TEST_F(DispatcherTest, WhoIsInTimeGoesBeforeWhoAddsLess) {
  make(2);
  for (std::uint64_t pass = 1; pass <= 50; ++pass) {  // a token takes a ms
    for (FakeEngine* engine : engines_) {
      const auto tokens = static_cast<std::uint32_t>(100 + pass);
      engine->report.generation = 1 + pass;
      engine->report.last_prefill_pass = {.ordinal = pass,
                                          .work = {.prefill_tokens = tokens},
                                          .took = std::chrono::milliseconds(tokens)};
    }
    (void)dispatcher_->view();
  }
  // A pass is under way at one; streams would stand still at the other.
  for (FakeEngine* engine : engines_) ++engine->report.generation;
  engines_[0]->report.pass_started = clock_.now();
  engines_[0]->report.pass = {.prefill_tokens = 50};
  engines_[1]->report.running = kPlaces - 1;

  const std::vector<Token> prompt = prompt_of(400, 3);
  EXPECT_EQ(place(prompt)->worker(), 0U);
  const std::vector<Decision::Candidate> candidates = dispatcher_->decisions()[0].candidates;
  ASSERT_EQ(dispatcher_->terms()[0], "first token ms");
  const double slower_ms = candidates[0].terms[0];
  const double faster_ms = candidates[1].terms[0];
  ASSERT_LT(candidates[0].cost, candidates[1].cost);
  ASSERT_LT(faster_ms + 20, slower_ms);
  const auto within = [&](double ms) {
    return place(prompt,
                 {.first_token_by = clock_.now() + Nanos(static_cast<std::int64_t>(ms * 1e6))});
  };
  EXPECT_EQ(within(slower_ms + 1)->worker(), 0U);
  const Result<Assignment> in_time = within(slower_ms - 1);
  ASSERT_TRUE(in_time.has_value()) << in_time.error().message;
  EXPECT_EQ(in_time->worker(), 1U);
  EXPECT_EQ(within(faster_ms - 1).error().code, Code::kOverloaded);
}

TEST_F(DispatcherTest, ChoicesOfOnePromptShareAWorkerWhileItHasPlaces) {
  make(3);
  const std::vector<Token> prompt = prompt_of(500, 1);
  std::vector<Assignment> choices;
  std::map<kv::Slot, std::uint32_t> counts;
  for (std::uint32_t k = 0; k < 3 * kPlaces; ++k) {
    DispatchRequest wanted;
    if (k > 0) wanted.twin_at = choices.back().worker();
    choices.push_back(*place(prompt, wanted));
    ++counts[choices.back().worker()];
    if (k < kPlaces) {
      EXPECT_EQ(choices.back().worker(), choices.front().worker());
    }
  }
  EXPECT_EQ(counts.size(), 3U);
  for (const auto& [worker, count] : counts) EXPECT_EQ(count, kPlaces) << worker;
}

TEST_F(DispatcherTest, AReaderLeftBehindTakesASnapshot) {
  make(2, {}, 4);  // events kept
  for (std::uint32_t i = 0; i < 5; ++i) engines_[0]->hold(prompt_of(10 * kBlock, i));
  for (std::uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(place(prompt_of(10 * kBlock, i))->worker(), 0U);
    EXPECT_EQ(dispatcher_->decisions()[0].candidates[0].cached_tokens, 10 * kBlock);
  }
  const WorkerView worker = dispatcher_->view().workers[0];
  EXPECT_EQ(worker.trust, fleet::Trust::kExact);
  EXPECT_EQ(worker.snapshots, 1U);
  EXPECT_EQ(worker.gaps, 1U);
  EXPECT_EQ(worker.events, 50U);
}

TEST_F(DispatcherTest, RoundRobinTakesTurnsAndPredictsNothing) {
  make(3, {.policy = "round-robin"});
  engines_[0]->hold(prompt_of(100, 1));
  for (kv::Slot expected : {0, 1, 2, 0}) EXPECT_EQ(place(prompt_of(100, 1))->worker(), expected);
  const Decision last = dispatcher_->decisions()[0];
  EXPECT_EQ(last.rule, "turn");
  ASSERT_EQ(last.candidates.size(), 3U);
  for (const auto& candidate : last.candidates) EXPECT_TRUE(std::isnan(candidate.cost));
  EXPECT_THAT(decisions_json("round-robin", dispatcher_->terms(), {&last, 1}),
              testing::HasSubstr(R"("cost":null,"terms":{})"));
}

}  // namespace
}  // namespace penstock::serve
