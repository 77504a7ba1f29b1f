#include "router/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "fleet/ledger.h"
#include "router/router.h"

namespace penstock::router {
namespace {

/// A fleet whose load is set by hand, and a question of a 10-block prompt.
class PolicyTest : public ::testing::Test {
 protected:
  void fleet(std::uint32_t workers) {
    for (std::uint32_t i = 0; i < workers; ++i) {
      slots_.push_back(*ledger_.add(fleet::WorkerState::kReady, fleet::Role::kBoth));
    }
    cached_.resize(workers);
    active_.resize(workers);
  }
  void give(Slot slot, std::uint32_t requests, std::uint32_t uncached = 0) {
    for (std::uint32_t i = 0; i < requests; ++i) {
      leases_.push_back(
          ledger_.charge(slot, {.prompt_tokens = uncached + 1, .uncached_tokens = uncached}));
    }
  }
  Question question() {
    return {.ordinal = ordinal_++,
            .prompt_tokens = 640,
            .block_tokens = 64,
            .prompt_blocks = 10,
            .prefix_key = 12345,
            .fleet = ledger_.view(),
            .candidates = slots_,
            .cached = cached_,
            .active = active_};
  }
  /// All the choices of 200 tries.
  std::map<Slot, int> choices(std::string_view policy) {
    const auto made = find_policy(policy)->make();
    std::map<Slot, int> counts;
    for (int i = 0; i < 200; ++i) ++counts[made->pick(question(), rng_, nullptr).slot];
    return counts;
  }
  Slot choice(std::string_view policy) {
    const std::map<Slot, int> counts = choices(policy);
    EXPECT_EQ(counts.size(), 1U) << policy;
    return counts.begin()->first;
  }

  fleet::Ledger ledger_{{.count_distinct_blocks = true}};
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> cached_;
  std::vector<std::uint32_t> active_;
  std::vector<fleet::Lease> leases_;
  std::uint64_t ordinal_ = 0;
  Rng rng_{7};
};

TEST_F(PolicyTest, AllAreInTheTableOnceWithADescription) {
  std::set<std::string_view> names;
  for (const PolicyEntry& entry : policies()) {
    EXPECT_TRUE(names.insert(entry.name).second);
    EXPECT_FALSE(entry.description.empty());
    EXPECT_LE(entry.make()->terms().size(), Explanation::kTermsMax);
  }
  EXPECT_EQ(policies().front().name, "latency");
  EXPECT_EQ(names.size(), 11U);
  EXPECT_EQ(find_policy("none"), nullptr);
}

TEST_F(PolicyTest, LatencyGoesWhereComputingAndLoadingAddLeast) {
  fleet(3);
  std::vector<tiers::LoadChoice> loads(3);
  const auto choose = [&] {
    Question q = question();
    q.loads = loads;
    return find_policy("latency")->make()->pick(q, rng_, nullptr).slot;
  };
  loads[1] = {.blocks = 9, .load_ns = 1e6, .recompute_ns = 9e6};
  EXPECT_EQ(choose(), 1U);
  loads[2] = {.blocks = 9, .load_ns = 5e5, .recompute_ns = 9e6};
  EXPECT_EQ(choose(), 2U);
  cached_[0] = 9;  // needs no loading
  EXPECT_EQ(choose(), 0U);
}

TEST_F(PolicyTest, RoundRobinTakesTurns) {
  fleet(3);
  const auto policy = find_policy("round-robin")->make();
  for (Slot expected : {0, 1, 2, 0, 1}) {
    EXPECT_EQ(policy->pick(question(), rng_, nullptr).slot, expected);
  }
}

TEST_F(PolicyTest, R8_EqualWorkersEachGetTheirShare) {
  fleet(4);
  for (const char* name :
       {"random", "least-loaded", "power-of-two", "prefix-sticky", "llm-d-weighted", "dynamo",
        "smg-cache-aware", "aibrix-prefix", "latency"}) {
    const std::map<Slot, int> counts = choices(name);
    ASSERT_EQ(counts.size(), 4U) << name;
    for (const auto& [slot, count] : counts) EXPECT_NEAR(count, 50, 30) << name;
  }
}

TEST_F(PolicyTest, LeastLoadedAndPowerOfTwoAvoidTheBusy) {
  fleet(2);
  give(0, 3);
  EXPECT_EQ(choice("least-loaded"), 1U);
  EXPECT_EQ(choice("power-of-two"), 1U);
}

TEST_F(PolicyTest, PrefixSticksUntilTheOthersStartEighteenSecondsSooner) {
  fleet(3);
  cached_ = {0, 8, 7};
  give(1, 1, 280'000);  // 17.6 s at 15,928 tokens/s
  EXPECT_EQ(choice("prefix-sticky"), 1U);
  give(1, 1, 10'000);                      // 18.2 s
  EXPECT_EQ(choice("prefix-sticky"), 2U);  // then fewest uncached tokens
  cached_ = {0, 7, 7};
  EXPECT_EQ(choice("prefix-sticky"), 2U);  // 70 % is no affinity
}

TEST_F(PolicyTest, WeightedSumsPrefixQueueAndKv) {
  fleet(2);
  ledger_.report(0, {.generation = 1, .waiting = 2, .kv_blocks_used = 50, .kv_blocks_max = 100});
  ledger_.report(1, {.generation = 1, .waiting = 0, .kv_blocks_used = 50, .kv_blocks_max = 100});
  cached_ = {6, 0};  // 1.8 against 2 for the queue
  EXPECT_EQ(choice("llm-d-weighted"), 1U);
  cached_ = {7, 0};  // 2.1
  EXPECT_EQ(choice("llm-d-weighted"), 0U);
}

TEST_F(PolicyTest, DynamoAddsPrefillAndActiveBlocks) {
  fleet(2);
  Explanation why;
  why.reserve(2);
  std::vector<std::uint64_t> locals = {1, 2, 3};
  leases_.push_back(ledger_.charge(
      0, {.prompt_tokens = 200, .uncached_tokens = 128, .prompt_blocks = 3, .locals = locals}));
  cached_ = {4, 0};
  active_ = {2, 0};
  const auto policy = find_policy("dynamo")->make();
  policy->pick(question(), rng_, &why);
  ASSERT_EQ(why.rows().size(), 2U);
  EXPECT_EQ(why.rows()[0].cost, (128.0 + 640) / 64 - 4 + 3 + (10 - 2));
  EXPECT_EQ(why.rows()[1].cost, 640.0 / 64 + 0 + 10);
}

TEST_F(PolicyTest, SmgTakesTheBestMatchAboveThirtyPercentUnlessUnbalanced) {
  fleet(3);
  cached_ = {0, 4, 2};
  EXPECT_EQ(choice("smg-cache-aware"), 1U);
  give(1, 64);
  EXPECT_EQ(choice("smg-cache-aware"), 1U);
  give(1, 1);  // 65 more than the least, and 1.5 times
  EXPECT_EQ(choices("smg-cache-aware").count(1), 0U);
  leases_.clear();
  cached_ = {0, 3, 0};  // exactly 30 % is not above
  give(1, 1);
  EXPECT_EQ(choices("smg-cache-aware").count(1), 0U);
}

TEST_F(PolicyTest, AibrixTakesTheBestMatchAmongTheNotTooBusy) {
  fleet(3);
  cached_ = {0, 1, 0};
  give(1, 10);
  EXPECT_EQ(choice("aibrix-prefix"), 1U);  // within two deviations of the mean
  give(1, 7);                              // 17 apart
  EXPECT_EQ(choices("aibrix-prefix").count(1), 0U);
}

TEST_F(PolicyTest, BoundedHashKeepsAPrefixAtItsOwnerUntilItIsFull) {
  fleet(5);
  const Slot owner = choice("bounded-hash");
  give(owner, 1);  // 1 > 1.25 * 2 / 5
  const Slot next = choice("bounded-hash");
  EXPECT_NE(next, owner);
  for (const Slot slot : slots_) give(slot, slot == owner ? 3 : 4);
  EXPECT_EQ(choice("bounded-hash"), owner);
  // Without another worker the owner stays the owner.
  std::erase(slots_, next);
  EXPECT_EQ(choice("bounded-hash"), owner);
}

TEST_F(PolicyTest, EveryCandidateIsExplainedOnceWhateverTheRule) {
  fleet(4);
  slots_ = {0, 2, 3};
  give(2, 9);
  for (const PolicyEntry& entry : policies()) {
    Explanation why;
    why.reserve(slots_.size());
    const Slot chosen = entry.make()->pick(question(), rng_, &why).slot;
    std::set<Slot> explained;
    for (const Explanation::Row& row : why.rows()) {
      EXPECT_TRUE(explained.insert(row.slot).second) << entry.name << " explains one twice";
      EXPECT_TRUE(row.slot != chosen || row.cost != kInfinity) << entry.name;
    }
    EXPECT_TRUE(explained.contains(chosen)) << entry.name;
    const std::size_t all = entry.name == "power-of-two" ? 2 : slots_.size();  // the two it drew
    EXPECT_EQ(explained.size(), all) << entry.name;
  }
}

TEST_F(PolicyTest, R14_MoreOverlapNeverMakesAWorkerLessLikely) {
  fleet(4);
  for (const char* name : {"latency", "prefix-sticky", "llm-d-weighted", "dynamo",
                           "smg-cache-aware", "aibrix-prefix"}) {
    for (int round = 0; round < 50; ++round) {
      leases_.clear();
      for (const Slot slot : slots_) {
        give(slot, rng_.below(4), rng_.below(4000));
        cached_[slot] = rng_.below(9);
      }
      Explanation before;
      Explanation after;
      before.reserve(4);
      after.reserve(4);
      const auto policy = find_policy(name)->make();
      Rng one(round);
      Rng two(round);
      const Slot chosen = policy->pick(question(), one, &before).slot;
      ++cached_[chosen];
      EXPECT_EQ(policy->pick(question(), two, &after).slot, chosen) << name;
    }
  }
}

TEST_F(PolicyTest, LatencyWeighsWaitingAgainstComputing) {
  fleet(2);
  for (const Slot slot : slots_) {
    ledger_.set_cost(slot, {.prefill_base_ms = 10,
                            .prefill_token_ms = 0.02,
                            .decode_base_ms = 5,
                            .pass_tokens_max = 8192});
  }
  cached_ = {9, 0};
  EXPECT_EQ(choice("latency"), 0U);
  give(0, 1, 400);
  EXPECT_EQ(choice("latency"), 0U);  // a little waiting for nine tenths of the prompt
  give(0, 4, 8000);
  EXPECT_EQ(choice("latency"), 1U);
}

TEST_F(PolicyTest, LatencyGivesANewPrefixAHomeWithRoom) {
  fleet(2);
  for (const Slot slot : slots_) {
    ledger_.set_cost(slot, {.decode_use_ms = 0});
    ledger_.report(
        slot, {.generation = 1, .kv_blocks_used = slot == 0 ? 55U : 50U, .kv_blocks_max = 100});
  }
  const auto policy = find_policy("latency")->make();
  const auto chosen = [&] {
    std::set<Slot> slots;
    for (int i = 0; i < 50; ++i) slots.insert(policy->pick(question(), rng_, nullptr).slot);
    return slots;
  };
  EXPECT_EQ(chosen().size(), 2U);  // nobody has come again yet
  cached_ = {6, 6};
  EXPECT_EQ(chosen().size(), 2U);  // it has a home
  cached_ = {0, 0};
  EXPECT_EQ(chosen(), std::set<Slot>{1});
}

TEST_F(PolicyTest, LatencyMindsLongStepsOnlyForAsLongAsTheAnswerMayBe) {
  fleet(2);
  // Full of KV, so that steps are long, or free of it, but with a prompt to compute first.
  for (const Slot slot : slots_) {
    ledger_.set_cost(slot, {.decode_use_ms = 20});
    ledger_.report(slot,
                   {.generation = 1, .kv_blocks_used = slot == 0 ? 70U : 0U, .kv_blocks_max = 100});
  }
  give(1, 1, 4000);
  const auto policy = find_policy("latency")->make();
  Question asked = question();
  EXPECT_EQ(policy->pick(asked, rng_, nullptr).slot, 1U);
  asked.output_tokens_max = 1;
  EXPECT_EQ(policy->pick(asked, rng_, nullptr).slot, 0U);
}

TEST_F(PolicyTest, LatencyPassesOverOnlyThoseThatCannotWin) {
  constexpr std::uint32_t kWorkers = 40;
  fleet(kWorkers);
  Rng random(1);
  std::vector<tiers::LoadChoice> loads(kWorkers);
  const auto quick = find_policy("latency")->make();
  const auto full = find_policy("latency")->make();
  Explanation why;
  why.reserve(kWorkers);
  const TimePoint now{std::chrono::seconds(100)};
  const auto change = [&](Slot slot, std::uint64_t generation) {
    // Most have little but tokens to ask for, and about as many: then bounds are near.
    const std::uint32_t more = random.below(4) == 0 ? 1 : 0;
    ledger_.set_cost(slot, {.prefill_base_ms = 20 * more * random.fraction(),
                            .prefill_token_ms = 0.05 + 0.05 * random.fraction(),
                            .prefill_token2_ms = 1e-6 * (random.fraction() - 0.2),
                            .decode_base_ms = more * random.fraction(),
                            .decode_use_ms = 50 * random.fraction(),
                            .pass_tokens_max = 100 + random.below(4000)});
    ledger_.report(slot, {.generation = generation,
                          .running = more * random.below(20),
                          .kv_blocks_used = more * random.below(900),
                          .kv_blocks_max = 1000,
                          .pass_started = random.below(4) == 0 ? now : TimePoint::min(),
                          .pass = {.prefill_tokens = random.below(300), .decodes = true}});
    cached_[slot] = 7 + random.below(4);
    loads[slot] = {.blocks = random.below(5), .load_ns = 20e6 * random.fraction()};
  };
  for (const Slot slot : slots_) change(slot, 1);
  for (std::uint64_t round = 2; round < 3000; ++round) {
    change(random.below(kWorkers), round);
    if (leases_.size() > round / 100) leases_.erase(leases_.begin());
    if (round > 1000) give(random.below(kWorkers), 1, random.below(1000));
    for (const auto& policy : {quick.get(), full.get()}) {
      policy->finished(20 + round % 100, static_cast<double>(round), 10 + round % 50);
    }
    Question asked = question();
    asked.now = now;
    asked.output_tokens_max = 1 + random.below(100);
    if (random.below(2) == 0) asked.loads = loads;
    if (random.below(2) == 0) asked.candidates = asked.candidates.subspan(random.below(kWorkers));
    // Who has to explain looks at all.
    const Choice choice = quick->pick(asked, rng_, nullptr);
    const Choice best = full->pick(asked, rng_, &why);
    ASSERT_EQ(choice.slot, best.slot) << round;
    ASSERT_EQ(choice.cost, best.cost) << round;
    ASSERT_EQ(why.rows().size(), asked.candidates.size());
  }
}

TEST_F(PolicyTest, LatencyPlansABatchOverTheFleet) {
  fleet(4);
  for (const Slot slot : slots_) {
    ledger_.set_cost(slot, {.prefill_base_ms = 10,
                            .prefill_token_ms = 0.02,
                            .decode_base_ms = 5,
                            .pass_tokens_max = 1024});
  }
  const auto policy = find_policy("latency")->make();
  std::vector<Question> questions(8, question());
  std::vector<Choice> choices(8);
  std::vector<std::uint32_t> order(8);
  policy->plan(questions, rng_, choices, order);
  std::map<Slot, int> counts;
  for (const Choice& c : choices) ++counts[c.slot];
  EXPECT_EQ(counts.size(), 4U);
  for (const auto& [slot, count] : counts) EXPECT_EQ(count, 2);
  std::ranges::sort(order);
  for (std::uint32_t i = 0; i < 8; ++i) EXPECT_EQ(order[i], i);
}

TEST_F(PolicyTest, LatencyPlansABurstOverWorkersThatHaveShownNothingYet) {
  fleet(4);
  std::vector<Question> questions(8, question());
  std::vector<Choice> choices(8);
  std::vector<std::uint32_t> order(8);
  find_policy("latency")->make()->plan(questions, rng_, choices, order);
  std::map<Slot, int> counts;
  for (const Choice& c : choices) ++counts[c.slot];
  for (const Slot slot : slots_) EXPECT_EQ(counts[slot], 2) << slot;
}

TEST(Router, TakesAWorkerThatHasShownNothingForWhatTheOthersAre) {
  fleet::Ledger ledger;
  kv::PrefixIndex index({.context = "test", .shards = 1});
  for (int i = 0; i < 2; ++i) {
    ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  }
  Router router(find_policy("latency")->make(), ledger, index, 1);
  const auto prefill_ms = [&](Slot slot) { return ledger.view().cost[slot].prefill_ms(1000); };
  for (int i = 0; i < 8; ++i) {
    router.observe(0, {.prefill_tokens = 1000}, std::chrono::milliseconds(300));
  }
  EXPECT_NEAR(prefill_ms(0), 300, 1);
  EXPECT_NEAR(prefill_ms(1), 300, 1);
  const Slot late = *ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  ASSERT_TRUE(router.place({.prompt_tokens = 10}));
  EXPECT_NEAR(prefill_ms(late), 300, 1);
  router.observe(1, {.prefill_tokens = 1000}, std::chrono::milliseconds(100));
  EXPECT_LT(prefill_ms(1), 200);  // what it shows itself counts at once
  EXPECT_NEAR(prefill_ms(0), 300, 1);
}

TEST(Router, BelievesWhatWorkersSayOfThemselvesUntilOneHasShownIt) {
  fleet::Ledger ledger;
  kv::PrefixIndex index({.context = "test", .shards = 1});
  for (int i = 0; i < 3; ++i) ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  Router router(find_policy("latency")->make(), ledger, index, 1);
  const auto prefill_ms = [&](Slot slot) { return ledger.view().cost[slot].prefill_ms(1000); };
  const double guess_ms = prefill_ms(2);
  router.report(0, {.generation = 1, .prompt_token_cost = std::chrono::milliseconds(8)});
  router.report(1, {.generation = 1, .prompt_token_cost = std::chrono::milliseconds(4)});
  router.report(2, {.generation = 1});
  EXPECT_NEAR(prefill_ms(0), 8000, 20);
  EXPECT_NEAR(prefill_ms(1), 4000, 20);
  EXPECT_EQ(prefill_ms(2), guess_ms);
  EXPECT_FALSE(router.knows_times());
  // The first pass is held against what that worker said, and counts for all.
  router.observe(1, {.prefill_tokens = 500}, std::chrono::milliseconds(2100));
  EXPECT_NEAR(prefill_ms(1), 4190, 20);
  EXPECT_NEAR(prefill_ms(2), 4190, 20);
  router.report(0, {.generation = 2, .prompt_token_cost = std::chrono::milliseconds(8)});
  EXPECT_NEAR(prefill_ms(0), 4190, 20);
  EXPECT_TRUE(router.knows_times());
}

TEST(Router, R1_CountsAPickAtOnceAndR16ChoosesAgainWhenAWorkerIsGone) {
  fleet::Ledger ledger;
  kv::PrefixIndex index({.context = "test", .shards = 1});
  Router router(find_policy("least-loaded")->make(), ledger, index, 1);
  const RouteRequest request{.prompt_tokens = 64, .block_tokens = 64};
  EXPECT_EQ(router.place(request).error().code, Code::kUnavailable);
  for (int i = 0; i < 3; ++i) (void)*ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  std::vector<Placement> placed;
  std::set<Slot> workers;
  for (int i = 0; i < 3; ++i) {
    placed.push_back(std::move(*router.place(request)));
    workers.insert(placed.back().worker);
  }
  EXPECT_EQ(workers.size(), 3U);  // no herd
  ledger.set_state(0, fleet::WorkerState::kGone);
  ledger.set_state(1, fleet::WorkerState::kDraining);
  for (int i = 0; i < 5; ++i) {
    placed.push_back(std::move(*router.place(request)));
    EXPECT_EQ(placed.back().worker, 2U);
  }
  ledger.set_state(2, fleet::WorkerState::kSuspect);
  EXPECT_EQ(router.place(request)->worker, 2U);  // a guess beats refusing all
}

TEST(Router, R15_CreditsOnlyAContiguousPrefix) {
  fleet::Ledger ledger;
  kv::PrefixIndex index({.context = "test", .shards = 1});
  Router router(find_policy("dynamo")->make(), ledger, index, 1);
  const Slot slot = *ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
  const std::vector<kv::StoredBlock> blocks = {{11, 1}, {12, 2}, {13, 3}};
  index.stored(slot, kv::Tier::kDevice, std::nullopt, blocks);
  const std::vector<std::uint64_t> locals = {1, 2, 3};
  const RouteRequest request{.prompt_tokens = 200, .block_tokens = 64, .locals = locals};
  EXPECT_EQ(router.place(request)->cached_blocks, 3U);
  index.removed(slot, kv::Tier::kDevice, std::vector<std::uint64_t>{12});
  EXPECT_EQ(router.place(request)->cached_blocks, 1U);
}

TEST(Router, WhatAWorkerTookCountsAsCachedThereUntilItIsComputed) {
  fleet::Ledger ledger;
  kv::PrefixIndex index({.context = "test", .shards = 1});
  Router router(find_policy("latency")->make(), ledger, index, 1);
  ASSERT_TRUE(ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth));
  const std::vector<std::uint64_t> family = {1, 2, 3};
  const std::vector<std::uint64_t> elder = {1, 2, 3, 4};
  const std::vector<std::uint64_t> younger = {1, 2, 3, 5};
  const auto place = [&](const std::vector<std::uint64_t>& locals) {
    return *router.place({.prompt_tokens = 300, .block_tokens = 64, .locals = locals});
  };
  Placement refused = place(elder);
  Placement first = place(elder);
  EXPECT_EQ(first.cached_blocks, 0U);
  first.lease.taken(elder, first.cached_blocks);
  Placement second = place(younger);
  EXPECT_EQ(second.cached_blocks, 3U);
  second.lease.taken(younger, second.cached_blocks);
  EXPECT_EQ(place(younger).cached_blocks, 4U);
  first.lease.release();  // cancelled: now the second computes what they have in common
  EXPECT_EQ(place(elder).cached_blocks, 3U);
  second.lease.first_token();  // what is there by now events have told
  EXPECT_EQ(place(family).cached_blocks, 0U);
}

TEST(TimeModel, LearnsTheClockFromPasses) {
  TimeModel model;
  Rng rng(3);
  for (int i = 0; i < 3000; ++i) {
    const fleet::PassWork pass{.prefill_tokens = rng.below(3) == 0 ? rng.below(8192) : 0,
                               .decodes = true,
                               .kv_use = rng.fraction()};
    const double t = pass.prefill_tokens;
    const double ms = (t > 0 ? 16.5 + 0.015 * t + 4e-7 * t * t : 0) + 5.7 + 54 * pass.kv_use -
                      25.7 * pass.kv_use * pass.kv_use;
    model.observe(pass, Nanos(std::llround(ms * 1e6)));
  }
  const fleet::PassCost cost = model.cost();
  EXPECT_NEAR(cost.prefill_ms(4000), 16.5 + 60 + 6.4, 0.5);
  EXPECT_NEAR(cost.decode_ms(0.3), 5.7 + 16.2 - 2.313, 0.1);
}

}  // namespace
}  // namespace penstock::router
