#include "engine/simulated/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/simulated/model_for_test.h"

namespace penstock::engine::simulated {
namespace {

TEST(SchedulerModel, ComputesALongPromptInChunksAndEmitsWithTheLast) {
  Worker w(small());
  w.submit(1, 37, 2, 1);
  EXPECT_EQ(w.pass(), Tags());
  EXPECT_EQ(w.duration, prefill(16));  // nobody is ready: no decode step
  EXPECT_EQ(w.model.prompt_tokens_left(), 21U);
  EXPECT_EQ(w.pass(), Tags());
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.duration, prefill(5) + decode(10, 32));
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.duration, decode(10, 32));
  EXPECT_TRUE(w.model.idle());
  EXPECT_EQ(w.model.passes(), 4U);
}

TEST(SchedulerModel, DecodesGoBeforePromptsInTheBudget) {
  Worker w(small());
  w.submit(1, 4, 9, 1);
  EXPECT_EQ(w.pass(), Tags{1});
  w.submit(2, 40, 9, 2);
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.model.prompt_tokens_left(), 25U);  // 16 - 1 of 40 computed
}

TEST(SchedulerModel, MeansOverThePromptsOfAPassAreWholeNumbers) {
  Worker w(small());
  w.submit(1, 3, 1, 1);
  w.submit(2, 4, 1, 2);
  EXPECT_EQ(w.pass(), (Tags{1, 2}));
  EXPECT_EQ(w.duration, prefill(6) + decode(2, 32));
}

TEST(SchedulerModel, BlocksCanBeHitBySequencesLaterInTheSamePass) {
  Worker w(small());
  w.submit(1, 9, 1, 1);
  w.submit(2, 9, 1, 1);
  w.model.start_pass();
  const auto emissions = w.model.finish_pass();
  ASSERT_EQ(tags(emissions), (Tags{1, 2}));
  EXPECT_EQ(emissions[0].cached_tokens, 0U);
  EXPECT_EQ(emissions[1].cached_tokens, 8U);
}

TEST(SchedulerModel, AtLeastOneTokenIsComputedOfAPromptThatIsHeldInFull) {
  Worker w(small());
  w.submit(1, 8, 1, 1);
  w.pass();
  w.submit(2, 8, 1, 1);
  w.model.start_pass();
  EXPECT_EQ(w.model.finish_pass()[0].cached_tokens, 4U);
}

TEST(SchedulerModel, WhatComesFromElsewhereCanBeHitAsFarAsThereIsRoom) {
  Worker worker(small());
  const std::vector<kv::BlockHash> keys = names(7, 40);
  worker.model.take_in(std::span(keys).first(2), {});
  worker.model.take_in(std::span(keys).first(5), {});  // two are there
  worker.model.check_invariants();
  EXPECT_EQ(worker.reader.held.size(), 5U);
  EXPECT_EQ(worker.model.pool().active(), 0U);
  worker.submit(1, 24, 2, 7);
  EXPECT_EQ(worker.model.start_pass().emissions[0].cached_tokens, 20U);
  worker.model.take_in(keys, {});  // beside what is in use
  (void)worker.model.finish_pass();
  worker.model.check_invariants();
  EXPECT_LE(worker.reader.held.size(), 32U);
}

TEST(SchedulerModel, WhoLoadsKeepsItsPlaceAndLetsOthersPass) {
  Worker w(small());
  const std::vector<kv::BlockHash> keys = names(1, 10);
  const SequenceId loading = w.model.submit(
      {.tag = 1, .keys = keys, .prompt_tokens = 40, .output_tokens = 1, .loading = true});
  EXPECT_FALSE(w.model.start_pass().progress);
  w.submit(2, 20, 1, 2);  // more than one pass's budget
  w.submit(3, 20, 1, 3);
  EXPECT_EQ(w.pass(), Tags{});
  w.model.loaded(loading);
  w.model.take_in(std::span(keys).first(9), {});
  EXPECT_EQ(w.pass(), (Tags{2, 1}));  // 4 + 4 tokens, and 8 of the third's
  EXPECT_EQ(w.pass(), Tags{3});
}

TEST(SchedulerModel, TheHeadOfTheQueueBlocksThoseBehindIt) {
  Worker w(small());
  w.submit(1, 64, 40, 1);  // 16 blocks, growing
  for (int i = 0; i < 4; ++i) w.pass();
  w.submit(2, 80, 1, 2);  // 20 blocks: more than are left
  w.submit(3, 4, 1, 3);   // would fit
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.model.running(), 1U);
  EXPECT_EQ(w.model.waiting(), 2U);
}

TEST(SchedulerModel, SharedBlocksAreNotCountedAgainstAdmission) {
  Worker w(small());
  w.submit(1, 80, 40, 1);
  for (int i = 0; i < 5; ++i) w.pass();
  w.submit(2, 84, 1, 1);  // 21 blocks, 20 of them referenced
  EXPECT_EQ(w.pass(), (Tags{1, 2}));
}

TEST(SchedulerModel, NoMoreThanSequencesMaxRun) {
  Worker w(small());
  for (std::uint64_t i = 0; i < 6; ++i) w.submit(i, 1, 3, i);
  EXPECT_EQ(w.pass(), (Tags{0, 1, 2, 3}));
  EXPECT_EQ(w.model.waiting(), 2U);
}

TEST(SchedulerModel, HigherPriorityWaitsInFrontAndEqualOnesKeepTheirOrder) {
  ModelOptions options = small();
  options.sequences_max = 1;
  Worker w(options);
  w.submit(1, 1, 1, 1, 0);
  w.submit(2, 1, 1, 2, 5);
  w.submit(3, 1, 1, 3, 0);
  w.submit(4, 1, 1, 4, 5);
  w.submit(5, 1, 1, 5, 9);
  Tags order;
  while (!w.model.idle()) order.push_back(w.pass().at(0));
  EXPECT_EQ(order, (Tags{5, 2, 4, 1, 3}));
}

TEST(SchedulerModel, TheNewestRunningSequenceIsPreemptedAndComesBackFirst) {
  ModelOptions options = small();
  options.kv_blocks = 8;
  options.sequences_max = 2;
  Worker w(options);
  w.submit(1, 11, 20, 1);  // 3 blocks, the third with room for one token
  w.submit(2, 15, 4, 2);   // 4 blocks
  w.submit(3, 1, 1, 3);    // waits for a place
  std::map<std::uint64_t, int> emitted;
  Tags last;
  const auto pass = [&] {
    last = w.pass();
    for (const std::uint64_t tag : last) ++emitted[tag];
  };
  while (w.model.preemptions() == 0) pass();
  EXPECT_EQ(last, Tags{1});  // 2 gave way in this pass
  EXPECT_EQ(w.model.waiting(), 2U);
  EXPECT_GT(emitted[2], 0);
  while (emitted[1] < 20) {
    pass();
    EXPECT_EQ(last, Tags{1});  // there is room for 3, but 2 is before it
  }
  do pass();  // its prompt and its generated tokens are computed again
  while (last.empty());
  EXPECT_EQ(last, (Tags{2, 3}));
  while (!w.model.idle()) pass();
  // Every token once: those generated before the preemption were kept.
  EXPECT_EQ(emitted, (std::map<std::uint64_t, int>{{1, 20}, {2, 4}, {3, 1}}));
}

TEST(SchedulerModel, APreemptedSequenceFindsItsOwnGeneratedBlocks) {
  ModelOptions options = small();
  options.kv_blocks = 9;
  options.pass_tokens_max = 10;
  Worker w(options);
  w.submit(1, 4, 24, 1);
  w.submit(2, 4, 24, 2);
  while (w.model.preemptions() == 0) w.pass();  // both have 16 tokens; one block is left
  EXPECT_EQ(w.model.prompt_tokens_left(), 4U);
  while (w.model.running() > 0) w.pass();  // the other took that one and two of 2's four
  // 17 tokens are known. With a block of the prompt and a generated one found, 9 are left: they fit
  // one pass, and generated tokens are recomputed for nothing.
  EXPECT_EQ(w.pass(), Tags{2});
  EXPECT_EQ(w.duration, decode(5, 9));
}

TEST(SchedulerModel, EachRolePaysForItsPartOnly) {
  ModelOptions options = small();
  options.role = Role::kPrefillOnly;
  Worker prefiller(options);
  prefiller.submit(1, 10, 1, 1);
  EXPECT_EQ(prefiller.pass(), Tags{1});
  EXPECT_EQ(prefiller.duration, prefill(10));

  options.role = Role::kDecodeOnly;
  Worker decoder(options);
  decoder.submit(1, 10, 1, 1);
  EXPECT_EQ(decoder.pass(), Tags{1});
  EXPECT_EQ(decoder.duration, decode(3, 32));
}

TEST(SchedulerModel, SpeedupsDivideTheirParts) {
  ModelOptions options = small();
  options.speedup = 2;
  options.decode_speedup = 4;
  Worker w(options);
  w.submit(1, 10, 1, 1);
  w.pass();
  EXPECT_EQ(w.duration, pass_time(PolynomialClock().prefill_ms(10), 2) +
                            pass_time(PolynomialClock().decode_ms(3.0 / 32), 8));
  options.speedup = kInfinity;
  Worker fast(options);
  fast.submit(1, 10, 1, 1);
  fast.pass();
  EXPECT_EQ(fast.duration, Nanos(0));
}

TEST(SchedulerModel, WithoutChunksAPromptWaitsForAPassThatHoldsIt) {
  ModelOptions options = small();
  options.chunked_prefill = false;
  Worker w(options);
  EXPECT_FALSE(w.model.can_run(16, 2));
  w.submit(1, 9, 3, 1);
  w.submit(2, 9, 3, 2);
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.model.prompt_tokens_left(), 9U);
  EXPECT_EQ(w.pass(), (Tags{1, 2}));
}

TEST(SchedulerModel, WithoutPrefixCachingNothingIsFoundOrTold) {
  ModelOptions options = small();
  options.prefix_caching = false;
  Worker w(options);
  w.submit(1, 9, 6, 1);
  w.submit(2, 9, 6, 1);
  while (!w.model.idle()) w.pass();
  EXPECT_TRUE(w.reader.held.empty());
  EXPECT_EQ(w.model.pool().names(), 0U);
  EXPECT_EQ(w.model.pool().available(), 32U);
}

TEST(SchedulerModel, OnlyWhatFitsThePoolCanRun) {
  Worker w(small());
  EXPECT_TRUE(w.model.can_run(128, 1));
  EXPECT_TRUE(w.model.can_run(100, 29));
  EXPECT_FALSE(w.model.can_run(129, 1));
  EXPECT_FALSE(w.model.can_run(100, 30));
  EXPECT_FALSE(w.model.can_run(1, 0xFFFFFFFF));
  w.submit(1, 100, 29, 1);
  std::size_t tokens = 0;
  while (!w.model.idle()) tokens += w.pass().size();
  EXPECT_EQ(tokens, 29U);
}

TEST(SchedulerModel, ARemovedSequenceEmitsNothingMore) {
  Worker w(small());
  const SequenceId a = w.submit(1, 4, 9, 1);
  w.submit(2, 4, 9, 2);
  const SequenceId c = w.submit(3, 4, 1, 3);
  const SequenceId d = w.submit(4, 40, 1, 4);
  EXPECT_EQ(tags(w.model.start_pass().emissions), (Tags{1, 2, 3}));
  w.model.remove(a);
  w.model.remove(c);  // in the pass that would have been its last
  EXPECT_EQ(tags(w.model.finish_pass()), Tags{2});
  w.model.check_invariants();
  EXPECT_EQ(w.model.running(), 2U);
  w.model.remove(d);  // between passes, in the middle of its prompt
  w.model.check_invariants();
  EXPECT_EQ(w.model.prompt_tokens_left(), 0U);
  const SequenceId e = w.submit(5, 4, 1, 5);
  w.model.remove(e);  // waiting
  EXPECT_EQ(w.pass(), Tags{2});
  EXPECT_EQ(w.model.pool().active(), 2U);
}

TEST(SchedulerModel, AHeldSequenceKeepsItsBlocksUntilTheyAreLetGo) {
  Worker w(small());
  Submission s = w.submission(1, 10, 1, 1);
  s.hold = true;
  const SequenceId id = w.model.submit(s);
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_TRUE(w.model.idle());
  EXPECT_EQ(w.model.pool().active(), 3U);
  EXPECT_FALSE(w.model.start_pass().progress);
  w.model.release_held(id);
  EXPECT_EQ(w.model.pool().active(), 0U);
  EXPECT_EQ(w.model.pool().names(), 2U);
  w.model.check_invariants();
}

TEST(SchedulerModel, AWorkerFullOfHeldBlocksMakesNoProgressUntilTheyAreLetGo) {
  Worker w(small());
  Submission s = w.submission(1, 120, 1, 1);
  s.hold = true;
  const SequenceId id = w.model.submit(s);
  while (!w.model.idle()) w.pass();
  w.submit(2, 40, 1, 2);
  EXPECT_FALSE(w.model.start_pass().progress);
  EXPECT_FALSE(w.model.in_pass());
  w.model.release_held(id);
  EXPECT_TRUE(w.model.start_pass().progress);
}

TEST(SchedulerModel, ADecodeLegStartsWithItsPromptComputed) {
  ModelOptions options = small();
  options.role = Role::kDecodeOnly;
  Worker w(options);
  const SequenceId id = w.model.reserve(w.submission(1, 10, 3, 1));
  EXPECT_TRUE(w.model.idle());
  const auto granted = w.model.grant_reservation();
  ASSERT_TRUE(granted.has_value());
  EXPECT_EQ(granted->tag, 1U);
  EXPECT_EQ(granted->id, id);
  EXPECT_EQ(w.model.pool().active(), 3U);
  EXPECT_EQ(w.model.pool().names(), 0U);  // nothing has arrived yet
  EXPECT_TRUE(w.model.idle());
  w.model.check_invariants();
  w.model.activate(id);
  w.model.check_invariants();
  EXPECT_EQ(w.model.pool().names(), 2U);
  EXPECT_EQ(w.model.prompt_tokens_left(), 0U);
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.duration, decode(3, 32));
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_TRUE(w.model.idle());
  EXPECT_EQ(w.model.pool().active(), 0U);
}

TEST(SchedulerModel, ReservationsAreServedInOrderAndHoldBackFreshPrompts) {
  Worker w(small());
  const SequenceId a = w.model.reserve(w.submission(1, 80, 1, 1));
  const SequenceId b = w.model.reserve(w.submission(2, 80, 1, 2));  // does not fit beside it
  w.model.reserve(w.submission(3, 4, 1, 3));                        // would
  EXPECT_TRUE(w.model.grant_reservation().has_value());
  EXPECT_FALSE(w.model.grant_reservation().has_value());
  w.submit(4, 4, 1, 4);
  EXPECT_FALSE(w.model.start_pass().progress);
  w.model.activate(a);  // behind the fresh one, which must not hold it up
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_TRUE(w.model.grant_reservation().has_value());
  EXPECT_TRUE(w.model.grant_reservation().has_value());
  EXPECT_EQ(w.pass(), Tags{4});
  w.model.activate(b);
  w.model.remove(b);
  w.model.check_invariants();
}

TEST(SchedulerModel, ReservationsReuseWhatIsHeldAndRespectSequencesMax) {
  ModelOptions options = small();
  options.sequences_max = 1;
  Worker w(options);
  w.submit(1, 80, 2, 1);
  for (int i = 0; i < 5; ++i) w.pass();
  w.model.reserve(w.submission(2, 84, 9, 1));
  EXPECT_FALSE(w.model.grant_reservation().has_value());  // one runs
  EXPECT_EQ(w.pass(), Tags{1});
  EXPECT_TRUE(w.model.grant_reservation().has_value());
  EXPECT_EQ(w.model.pool().active(), 21U);
  EXPECT_EQ(w.model.pool().names(), 20U);  // nothing was pushed out for it
  w.model.check_invariants();
}

/// When each sequence got its tokens: (time, tag), in order.
using Tokens = std::vector<std::pair<Nanos, std::uint64_t>>;

/// Runs all that was submitted, ending up to `at_once` passes together where they are alike.
Tokens tokens_of(Worker& w, std::uint32_t at_once) {
  Tokens tokens;
  Nanos now{0};
  while (!w.model.idle()) {
    const Pass& pass = w.model.start_pass();
    CHECK(pass.progress);
    const std::uint32_t passes = std::min(pass.repeats, at_once);
    const Nanos each = pass.duration;
    for (const Emission& e : w.model.finish_pass(passes)) {
      for (std::uint32_t i = 1; i <= passes; ++i) tokens.emplace_back(now + i * each, e.tag);
    }
    now += passes * each;
    w.model.check_invariants();
  }
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

TEST(SchedulerModel, PassesThatAreAlikeCanEndAtOnce) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    std::vector<Tokens> runs;
    std::vector<std::uint64_t> passes;
    for (const std::uint32_t at_once : {1U, 3U, UINT32_MAX}) {
      std::mt19937_64 random(seed);
      Worker w(small());
      for (std::uint64_t tag = 1; tag <= 12; ++tag) {
        const auto prompt = static_cast<std::uint32_t>(1 + random() % 60);
        w.submit(tag, prompt, static_cast<std::uint32_t>(1 + random() % 40), random() % 3);
      }
      runs.push_back(tokens_of(w, at_once));
      passes.push_back(w.model.passes());
      EXPECT_EQ(w.model.pool().names(), w.reader.held.size());
    }
    EXPECT_EQ(runs[0], runs[1]);
    EXPECT_EQ(runs[0], runs[2]);
    EXPECT_EQ(passes[0], passes[2]);
  }
}

TEST(SchedulerModel, APassRepeatsUntilABlockIsNeededOrAnAnswerEnds) {
  Worker w(small());
  w.submit(1, 5, 9, 1);
  EXPECT_EQ(w.model.start_pass().repeats, 1U);  // the prompt
  w.model.finish_pass();
  EXPECT_EQ(w.model.start_pass().repeats, 3U);  // tokens 6 to 8 of two blocks
  EXPECT_EQ(w.model.finish_pass(3).size(), 1U);
  EXPECT_EQ(w.model.start_pass().repeats, 4U);
  w.model.finish_pass(2);
  w.submit(2, 1, 9, 2);
  EXPECT_EQ(w.model.start_pass().repeats, 1U);
  w.model.finish_pass();
  EXPECT_EQ(w.model.start_pass().repeats, 1U);  // a block is full with this one
  w.model.finish_pass();
  EXPECT_EQ(w.model.start_pass().repeats, 1U);  // the first answer's last
  EXPECT_TRUE(w.model.finish_pass()[0].last);
}

}  // namespace
}  // namespace penstock::engine::simulated
