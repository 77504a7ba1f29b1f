#include "serve/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <thread>

#include "serve/internal/dispatcher_for_test.h"

namespace penstock::serve {
namespace {

/// They have computed one more pass each, a token in a ms.
void report_pass(const std::vector<FakeEngine*>& engines, std::uint64_t pass) {
  const auto tokens = static_cast<std::uint32_t>(100 + pass);
  for (FakeEngine* engine : engines) {
    engine->report.generation = 1 + pass;
    engine->report.last_prefill_pass = {.ordinal = pass,
                                        .work = {.prefill_tokens = tokens},
                                        .took = std::chrono::milliseconds(tokens)};
  }
}

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

TEST_F(DispatcherTest, NobodyIsTurnedAwayByAGuess) {
  make(1);
  const DispatchRequest soon{.first_token_by = clock_.now() + std::chrono::seconds(1)};
  engines_[0]->report.prompt_token_cost = std::chrono::milliseconds(100);
  ASSERT_TRUE(place(prompt_of(200, 1), soon).has_value());
  EXPECT_GT(dispatcher_->decisions()[0].predicted_ttft_ms, 20'000);
  engines_[0]->report.generation = 2;
  engines_[0]->report.last_prefill_pass = {
      .ordinal = 1, .work = {.prefill_tokens = 200}, .took = std::chrono::seconds(20)};
  EXPECT_EQ(place(prompt_of(200, 2), soon).error().code, Code::kOverloaded);
}

TEST_F(DispatcherTest, AWorkersFirstPassIsHeldAgainstWhatItSaysOfItself) {
  make(1);
  // As a front end finds it that was started after it.
  engines_[0]->report.prompt_token_cost = std::chrono::milliseconds(5);
  engines_[0]->report.last_prefill_pass = {
      .ordinal = 7, .work = {.prefill_tokens = 16}, .took = std::chrono::milliseconds(90)};
  ASSERT_TRUE(place(prompt_of(2000, 1)).has_value());
  EXPECT_NEAR(dispatcher_->decisions()[0].predicted_ttft_ms, 10'000, 1000);
}

TEST_F(DispatcherTest, WhatWouldComeTooLateIsShedAndNotCharged) {
  make(2);
  // 4,000 tokens are queued at each, and 100 take 100 ms.
  for (FakeEngine* engine : engines_) {
    engine->report.waiting_prefill_tokens = engine->report.running_prefill_tokens = 4000;
    engine->report.running = 1;
  }
  for (std::uint64_t pass = 1; pass <= 50; ++pass) {
    report_pass(engines_, pass);
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
  for (std::uint64_t pass = 1; pass <= 50; ++pass) {
    report_pass(engines_, pass);
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
