// Whether the prompt of a request is computed elsewhere than its answer, and where.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "fleet/ledger.h"
#include "router/router.h"

namespace penstock::router {
namespace {

/// Workers with the given roles, 1 ms a prompt token and 20 ms a decode step each.
class SplitTest : public ::testing::Test {
 protected:
  void fleet(std::initializer_list<fleet::Role> roles, std::string_view policy = "latency") {
    router_.reset();
    ledger_ = std::make_unique<fleet::Ledger>(fleet::Ledger::Options{
        .count_distinct_blocks = find_policy(policy)->make()->needs().active});
    for (const fleet::Role role : roles) {
      const Slot slot = *ledger_->add(fleet::WorkerState::kReady, role);
      ledger_->set_cost(slot,
                        {.prefill_token_ms = 1, .decode_base_ms = 20, .pass_tokens_max = 512});
    }
    router_ = std::make_unique<Router>(find_policy(policy)->make(), *ledger_, index_, 1);
  }
  /// Answers run there; or prompts wait.
  void report(Slot slot, std::uint32_t running, std::uint64_t prompt_tokens = 0) {
    ledger_->report(slot, {.generation = ++generation_,
                           .prefill_tokens_left = prompt_tokens,
                           .running_prefill_tokens_left = prompt_tokens,
                           .running = running + (prompt_tokens > 0 ? 1 : 0),
                           .running_max = 8});
  }
  /// So much of the leading part is cached there.
  void hold(Slot slot, std::uint64_t blocks) {
    std::vector<kv::StoredBlock> held;
    for (std::uint64_t i = 1; i <= blocks; ++i) held.push_back({.alias = i, .local = i});
    index_.stored(slot, kv::Tier::kDevice, std::nullopt, held);
  }
  Placement place(std::uint32_t tokens, TransferCost transfer = {.fixed_ms = 2, .block_ms = 0.5}) {
    locals_.assign(tokens / 64, 0);
    for (std::size_t i = 0; i < locals_.size(); ++i) locals_[i] = i + 1;
    auto placed = router_->place(
        {.prompt_tokens = tokens, .block_tokens = 64, .locals = locals_, .split = transfer}, &why_);
    EXPECT_TRUE(placed.has_value());
    return std::move(*placed);
  }

  using Role = fleet::Role;
  std::unique_ptr<fleet::Ledger> ledger_;
  kv::PrefixIndex index_{{.context = "test", .shards = 1}};
  std::unique_ptr<Router> router_;
  Explanation why_;
  std::vector<std::uint64_t> locals_;
  std::uint64_t generation_ = 0;
};

TEST_F(SplitTest, ALongPromptGoesElsewhereWhereAnswersWouldStandStillAndNotWhereNoneDo) {
  fleet({Role::kPrefill, Role::kDecode});
  {
    const Placement idle = place(4000);
    EXPECT_EQ(idle.stage, Stage::kWhole);
    EXPECT_EQ(idle.worker, 1U);
  }
  report(1, 6);
  const Placement busy = place(4000);
  EXPECT_EQ(busy.stage, Stage::kPrefill);
  EXPECT_EQ(busy.worker, 0U);
  EXPECT_EQ(busy.rule, "prompt elsewhere");
  // Four seconds of prompt, 31 ms of transfer, 32 tokens and a step where it is answered.
  EXPECT_NEAR(busy.ttft_ms, 4000, 250);
  EXPECT_EQ(why_.rows().size(), 2U);
}

TEST_F(SplitTest, NotWhenThePromptWouldWaitLongerOrItsKvWouldTravelTooLong) {
  fleet({Role::kPrefill, Role::kDecode});
  report(1, 6);
  EXPECT_EQ(place(4000, {.fixed_ms = 2, .block_ms = 500}).stage, Stage::kWhole);
  report(0, 0, 60'000);
  EXPECT_EQ(place(4000).stage, Stage::kWhole);
}

TEST_F(SplitTest, WhatTheAnswersWorkerHoldsNeedsNoOtherAndWhatThePromptsHoldsIsQuick) {
  fleet({Role::kPrefill, Role::kDecode});
  report(1, 6);
  hold(1, 62);
  EXPECT_EQ(place(4000).stage, Stage::kWhole);
  index_.cleared(1);
  hold(0, 62);
  const Placement held = place(4000);
  EXPECT_EQ(held.stage, Stage::kPrefill);
  EXPECT_EQ(held.cached_blocks, 62U);
  EXPECT_LT(held.ttft_ms, 300);
}

TEST_F(SplitTest, WorkersForBothSplitAmongEachOtherAndOneAloneNever) {
  fleet({Role::kBoth});
  report(0, 6);
  EXPECT_EQ(place(4000).stage, Stage::kWhole);
  EXPECT_EQ(why_.rows().size(), 1U);  // nothing else was thought of
  const Slot other = *ledger_->add(fleet::WorkerState::kReady, Role::kBoth);
  ledger_->set_cost(other, {.prefill_token_ms = 1, .decode_base_ms = 20, .pass_tokens_max = 512});
  const Placement placed = place(4000);  // the idle one takes it whole
  EXPECT_EQ(placed.stage, Stage::kWhole);
  EXPECT_EQ(placed.worker, other);
}

TEST_F(SplitTest, WhatAnAnswersWorkerHoldsForTheMostPartIsTakenWhole) {
  fleet({Role::kDecode, Role::kPrefill, Role::kDecode});
  report(0, 6);
  report(2, 6);
  hold(0, 51);
  EXPECT_EQ(place(6400).stage, Stage::kWhole);
  EXPECT_EQ(why_.rows().size(), 2U);  // nothing else was thought of
  index_.cleared(0);
  hold(0, 50);
  (void)place(6400);
  EXPECT_EQ(why_.rows().size(), 3U);
  ledger_->set_role(1, Role::kBoth);
  index_.cleared(0);
  hold(1, 51);
  EXPECT_EQ(place(6400).stage, Stage::kWhole);
  EXPECT_EQ(why_.rows().size(), 3U);
}

TEST_F(SplitTest, PoliciesWithoutTimesSplitWhereWorkersTakeNothingElse) {
  for (const PolicyEntry& entry : policies()) {
    if (entry.name == "latency") continue;
    fleet({Role::kPrefill, Role::kDecode, Role::kDecode}, entry.name);
    const Placement prompt = place(640);
    EXPECT_EQ(prompt.stage, Stage::kPrefill) << entry.name;
    EXPECT_EQ(prompt.worker, 0U) << entry.name;
    ledger_->set_role(0, Role::kBoth);
    EXPECT_EQ(place(640).stage, Stage::kWhole) << entry.name;
  }
}

TEST_F(SplitTest, AnAnswerGoesWhereItAddsLeastWithTheKvThatHasToGetThere) {
  fleet({Role::kPrefill, Role::kDecode, Role::kDecode});
  std::vector<std::uint64_t> locals(62);
  for (std::size_t i = 0; i < locals.size(); ++i) locals[i] = i + 1;
  const auto answer = [&](std::optional<TransferCost> transfer) {
    const RouteRequest request{.stage = Stage::kDecode,
                               .prompt_tokens = 4000,
                               .block_tokens = 64,
                               .locals = locals,
                               .split = transfer,
                               .prompt_at = 0};
    return router_->place(request, &why_);
  };
  const Slot busy[] = {2};
  const auto there = router_->place({.stage = Stage::kDecode,
                                     .prompt_tokens = 4000,
                                     .block_tokens = 64,
                                     .locals = locals,
                                     .among = busy});
  EXPECT_EQ(answer({})->worker, 1U);  // the least KV is all that is known
  report(1, 0, 20'000);               // but prompts wait there
  EXPECT_EQ(answer({})->worker, 1U);
  const auto placed = answer(TransferCost{.fixed_ms = 2, .block_ms = 0.5});
  EXPECT_EQ(placed->worker, 2U);
  EXPECT_EQ(placed->rule, "least added ms");
  EXPECT_EQ(why_.rows().size(), 2U);
  hold(1, 62);
  EXPECT_EQ(answer(TransferCost{.block_ms = 0.5})->worker, 2U);
  EXPECT_EQ(answer(TransferCost{.block_ms = 5000})->worker, 1U);  // it need not move there
}

TEST_F(SplitTest, NoPromptIsComputedAtASuspectWorker) {
  for (const std::string_view policy : {"latency", "round-robin"}) {
    fleet({Role::kPrefill, Role::kDecode, Role::kDecode}, policy);
    for (const Slot slot : {1, 2}) report(slot, 6);
    EXPECT_EQ(place(4000).stage, Stage::kPrefill) << policy;
    ledger_->set_state(0, fleet::WorkerState::kSuspect);
    EXPECT_EQ(place(4000).stage, Stage::kWhole) << policy;
    ledger_->set_state(0, fleet::WorkerState::kReady);
    for (const Slot slot : {1, 2}) ledger_->set_state(slot, fleet::WorkerState::kSuspect);
    EXPECT_EQ(place(4000).stage, Stage::kWhole) << policy;
  }
}

TEST_F(SplitTest, KvThatDoesNotComeThroughIsNotReckonedWith) {
  for (const std::string_view policy : {"latency", "round-robin"}) {
    fleet({Role::kPrefill, Role::kPrefill, Role::kDecode, Role::kDecode}, policy);
    for (const Slot slot : {2, 3}) report(slot, 6);
    const auto miss = [&](Slot from, Slot to) {
      for (std::uint32_t i = 0; i < HandOvers::kMissesMax; ++i) {
        router_->handed_over(from, to, false, TimePoint(i * HandOvers::kMoment));
      }
    };
    miss(0, 2);
    EXPECT_EQ(place(4000).stage, Stage::kPrefill) << policy;
    const RouteRequest answer{.stage = Stage::kDecode, .prompt_tokens = 4000, .prompt_at = 0};
    for (int i = 0; i < 4; ++i) EXPECT_EQ(router_->place(answer)->worker, 3U) << policy;
    miss(0, 3);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(place(4000).worker, 1U) << policy;
    EXPECT_TRUE(router_->place(answer).has_value()) << policy;  // somebody has to
    for (const Slot slot : {2, 3}) miss(1, slot);
    EXPECT_EQ(place(4000).stage, Stage::kWhole) << policy;
    router_->forget(1);  // that slot has another worker now
    EXPECT_EQ(place(4000).worker, 1U) << policy;
  }
}

TEST_F(SplitTest, NoPromptIsComputedForAnAnswerThatItsKvDoesNotReach) {
  fleet({Role::kPrefill, Role::kDecode, Role::kDecode});
  report(1, 6);
  report(2, 6, 60'000);  // answered there, it would be late
  EXPECT_EQ(place(4000).stage, Stage::kPrefill);
  for (std::uint32_t i = 0; i < HandOvers::kMissesMax; ++i) {
    router_->handed_over(0, 1, false, TimePoint(i * HandOvers::kMoment));
  }
  EXPECT_EQ(place(4000).stage, Stage::kWhole);
}

TEST_F(SplitTest, ARoleThatChangesCountsAtOnce) {
  fleet({Role::kPrefill, Role::kDecode}, "least-loaded");
  EXPECT_EQ(place(640).worker, 0U);
  ledger_->set_role(0, Role::kDecode);
  ledger_->set_role(1, Role::kPrefill);
  const Placement placed = place(640);
  EXPECT_EQ(placed.worker, 1U);
  EXPECT_EQ(placed.stage, Stage::kPrefill);
}

}  // namespace
}  // namespace penstock::router
