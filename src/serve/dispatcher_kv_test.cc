// What the dispatcher knows of KV: held, on its way, in lower tiers, and what was predicted of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "serve/internal/dispatcher_for_test.h"

namespace penstock::serve {
namespace {

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
  EXPECT_EQ(dispatcher_->set_role(2, fleet::Role::kBoth), fleet::Role::kWhole);
  EXPECT_EQ(dispatcher_->view().workers[2].role, fleet::Role::kWhole);
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

TEST_F(DispatcherTest, OnlyWhatAWorkerTookIsExpectedThereAndUntilItsFirstToken) {
  make(1);
  const std::vector<Token> prompt = prompt_of(100, 1);
  const auto expected = [&] {
    (void)place(prompt);
    return dispatcher_->decisions().front().predicted_cached_tokens;
  };
  Result<Assignment> refused = place(prompt);
  refused->refused();
  refused->release();
  Result<Assignment> cancelled = place(prompt);
  EXPECT_EQ(expected(), 0U);
  cancelled->taken();
  Result<Assignment> computed = place(prompt);
  computed->taken();
  EXPECT_EQ(expected(), 96U);
  cancelled->release();
  EXPECT_EQ(expected(), 96U);
  Assignment moved = std::move(*computed);
  EXPECT_EQ(expected(), 96U);
  moved.first_token({.prompt_tokens = 100});
  EXPECT_EQ(expected(), 0U);  // by then its events would have said it
}

TEST_F(DispatcherTest, OfAWorkerThatKeepsNoKvNothingIsExpected) {
  make(1);
  engines_[0]->keep_no_kv();
  const std::vector<Token> prompt = prompt_of(100, 1);
  Result<Assignment> taken = place(prompt);
  taken->taken();
  (void)place(prompt);
  EXPECT_EQ(dispatcher_->decisions().front().predicted_cached_tokens, 0U);
}

TEST_F(DispatcherTest, WhatWasOnlyExpectedAndNeverComputedIsNoDisagreement) {
  make(1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    const std::vector<Token> prompt = prompt_of(100, i);
    Result<Assignment> cancelled = place(prompt);
    cancelled->taken();
    Result<Assignment> sibling = place(prompt);
    EXPECT_EQ(dispatcher_->decisions().front().predicted_cached_tokens, 96U);
    cancelled->release();
    engines_[0]->hold(prompt);  // it has computed it itself, and says so first
    sibling->first_token({.prompt_tokens = 100});
  }
  const WorkerView worker = dispatcher_->view().workers[0];
  EXPECT_EQ(worker.trust, fleet::Trust::kExact);
  EXPECT_EQ(worker.forecast.equal, 0U);
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

TEST_F(DispatcherTest, NotFindingWhatWasToldIsDisagreement) {
  make(1);
  for (std::uint32_t i = 0; i < 20; ++i) {
    engines_[0]->hold(prompt_of(100, i));
    place(prompt_of(100, i))->first_token({.prompt_tokens = 100});
  }
  EXPECT_EQ(dispatcher_->view().workers[0].trust, fleet::Trust::kDegraded);
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

}  // namespace
}  // namespace penstock::serve
