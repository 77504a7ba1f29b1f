#include "engine/simulated/core.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kv/block.h"

namespace penstock::engine::simulated {
namespace {

using std::chrono::milliseconds;

/// Keeps all it is given, request by request.
class Sink final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    ++calls;
    EXPECT_FALSE(outputs.empty());
    for (Output& output : outputs) by_request[output.request.value].push_back(std::move(output));
  }
  std::vector<Token> tokens(std::uint64_t id) const {
    std::vector<Token> result;
    for (const Output& output : by_request.at(id)) {
      if (output.token) result.push_back(*output.token);
    }
    return result;
  }
  FinishReason finish(std::uint64_t id) const {
    const std::vector<Output>& outputs = by_request.at(id);
    for (std::size_t i = 0; i + 1 < outputs.size(); ++i) EXPECT_FALSE(outputs[i].finish);
    return outputs.back().finish.value();
  }

  int calls = 0;
  std::map<std::uint64_t, std::vector<Output>> by_request;
};

SimulatedOptions small_core() {
  SimulatedOptions options;
  options.worker.block_tokens = 4;
  options.worker.kv_blocks = 64;
  options.worker.sequences_max = 4;
  options.worker.pass_tokens_max = 64;
  for (Token t = 10; t < 60; ++t) options.vocabulary.push_back(t);
  return options;
}

std::vector<Token> prompt_of(std::size_t size, Token from) {
  std::vector<Token> prompt;
  for (std::size_t i = 0; i < size; ++i) prompt.push_back(from + static_cast<Token>(i));
  return prompt;
}

struct Bench {
  explicit Bench(SimulatedOptions o = small_core())
      : options(std::move(o)), core(options, events) {}

  GenerateRequest request(std::uint64_t id, std::vector<Token> prompt, std::uint32_t max_tokens) {
    return {.id = {id}, .sink = &sink, .prompt = std::move(prompt), .max_tokens = max_tokens};
  }
  Nanos pass() {
    const Nanos duration = core.start_pass(now);
    core.finish_pass();
    core.deliver();
    return duration;
  }
  void run() {
    while (!core.idle()) pass();
    core.deliver();
  }

  TimePoint now{};  // moved by hand
  SimulatedOptions options;
  KvEventLog events;
  Core core;
  Sink sink;
};

TEST(Core, AnswersAsPredictedWithUsage) {
  Bench b;
  const GenerateRequest r = b.request(1, prompt_of(10, 100), 6);
  b.core.accept(r);
  b.run();
  EXPECT_EQ(b.sink.tokens(1), whole_answer(b.options, r).tokens);
  EXPECT_EQ(b.sink.finish(1), FinishReason::kLength);
  const std::vector<Output>& outputs = b.sink.by_request[1];
  ASSERT_EQ(outputs.size(), 6U);  // the last token and the end share one
  EXPECT_EQ(outputs.front().usage.prompt_tokens, 10U);
  EXPECT_EQ(outputs.front().usage.cached_tokens, 0U);
  EXPECT_EQ(outputs.front().usage.completion_tokens, 1U);
  EXPECT_EQ(outputs.back().usage.completion_tokens, 6U);
  EXPECT_EQ(outputs.front().logprob, 0);
}

TEST(Core, AClearedCacheHoldsNothingButWhatIsInUse) {
  Bench b;
  const auto told_from = [&](std::uint64_t from) {
    std::vector<kv::Event> events;
    EXPECT_TRUE(b.events.read(from, 100, events));
    std::string kinds;
    for (const kv::Event& event : events) kinds += "+-0"[static_cast<int>(event.kind)];
    return kinds;
  };
  b.core.clear_cache();
  EXPECT_EQ(b.events.last_sequence(), 0U);  // nothing is there
  b.core.accept(b.request(1, prompt_of(10, 100), 1));
  b.run();
  b.core.clear_cache();
  EXPECT_EQ(told_from(1), "++0");
  EXPECT_EQ(b.core.load().kv_blocks_used, 0U);
  EXPECT_EQ(b.core.load().blocks_evicted, 0U);

  b.core.accept(b.request(2, prompt_of(10, 100), 1));
  b.run();
  EXPECT_EQ(b.sink.by_request[2].back().usage.cached_tokens, 0U);
  b.core.accept(b.request(3, prompt_of(10, 200), 5));
  b.pass();
  b.core.clear_cache();
  EXPECT_EQ(told_from(4), "++++--");
  EXPECT_EQ(b.core.load().kv_blocks_used, 2U);
  b.run();
  EXPECT_EQ(b.sink.tokens(3), whole_answer(b.options, b.request(3, prompt_of(10, 200), 5)).tokens);
  b.core.accept(b.request(4, prompt_of(10, 200), 1));
  b.run();
  EXPECT_EQ(b.sink.by_request[4].back().usage.cached_tokens, 8U);
}

TEST(Core, PassesTakeTheModelsTime) {
  Bench b;
  b.core.accept(b.request(1, prompt_of(10, 100), 2));
  const PolynomialClock clock;
  EXPECT_EQ(b.pass(), pass_time(clock.prefill_ms(10), 1) + pass_time(clock.decode_ms(3.0 / 64), 1));
  EXPECT_EQ(b.pass(), pass_time(clock.decode_ms(3.0 / 64), 1));
}

TEST(Core, TimeInQueueEndsWithTheFirstPassOfThePrompt) {
  SimulatedOptions options = small_core();
  options.worker.sequences_max = 1;
  options.worker.pass_tokens_max = 8;
  Bench b(options);
  for (const std::uint64_t id : {1, 2}) {
    GenerateRequest r = b.request(id, prompt_of(20, 100 * static_cast<Token>(id)), 1);
    r.arrived = b.now + milliseconds(id);
    b.core.accept(std::move(r));
  }
  while (!b.core.idle()) {
    b.now += milliseconds(10);
    b.pass();
  }
  // Each takes three passes.
  EXPECT_EQ(b.sink.by_request[1].front().usage.queued, milliseconds(10 - 1));
  EXPECT_EQ(b.sink.by_request[2].front().usage.queued, milliseconds(40 - 2));
}

TEST(Core, OneCallASinkHoweverManyRequestsAndPasses) {
  Bench b;
  Sink other;
  b.core.accept(b.request(1, prompt_of(5, 100), 8));
  b.core.accept(b.request(2, prompt_of(5, 200), 8));
  GenerateRequest r = b.request(3, prompt_of(5, 300), 8);
  r.sink = &other;
  b.core.accept(r);
  while (!b.core.idle()) {
    b.core.start_pass(b.now);
    b.core.finish_pass();
  }
  EXPECT_EQ(b.core.undelivered(), 24U);
  EXPECT_EQ(b.core.ended().size(), 3U);
  b.core.deliver();
  EXPECT_EQ(b.sink.calls, 1);
  EXPECT_EQ(other.calls, 1);
  EXPECT_EQ(b.sink.tokens(1).size(), 8U);
  EXPECT_EQ(other.tokens(3).size(), 8U);
  EXPECT_EQ(b.core.undelivered(), 0U);
  EXPECT_TRUE(b.core.ended().empty());
}

TEST(Core, ASinkMayGoAsSoonAsItsLastRequestHasEnded) {
  Bench b;
  for (std::uint64_t round = 1; round <= 50; ++round) {
    auto sink = std::make_unique<Sink>();
    GenerateRequest r = b.request(round, prompt_of(5, 100), 3);
    r.sink = sink.get();
    b.core.accept(r);
    b.run();
    EXPECT_EQ(sink->tokens(round).size(), 3U);
  }
}

TEST(Core, StopTokensAndEndOfGenerationAreNotShown) {
  Bench b;
  GenerateRequest r = b.request(1, prompt_of(10, 100), 20);
  const std::vector<Token> all = whole_answer(b.options, r).tokens;
  r.stop_token_ids = {all[5]};
  b.core.accept(r);
  b.run();
  EXPECT_EQ(b.sink.tokens(1), whole_answer(b.options, r).tokens);
  EXPECT_LT(b.sink.tokens(1).size(), 6U);
  EXPECT_EQ(b.sink.finish(1), FinishReason::kStop);
  EXPECT_FALSE(b.sink.by_request[1].back().token);
  EXPECT_EQ(b.sink.by_request[1].back().usage.completion_tokens, b.sink.tokens(1).size());
  EXPECT_EQ(b.core.load().kv_blocks_used, (10 + b.sink.tokens(1).size()) / 4);

  SimulatedOptions ending = small_core();
  ending.eos_probability = 0.2;
  Bench e(ending);
  const GenerateRequest q = e.request(2, prompt_of(10, 100), 60);
  e.core.accept(q);
  e.run();
  const WholeAnswer whole = whole_answer(ending, q);
  EXPECT_EQ(e.sink.tokens(2), whole.tokens);
  EXPECT_EQ(e.sink.finish(2), whole.finish);
  EXPECT_EQ(whole.finish, FinishReason::kStop);
}

TEST(Core, LogprobsComeWhenAskedFor) {
  Bench b;
  GenerateRequest r = b.request(1, prompt_of(3, 100), 2);
  r.top_logprobs = 3;
  b.core.accept(r);
  r.id = {2};
  r.top_logprobs = 0;
  b.core.accept(r);
  b.run();
  for (const Output& output : b.sink.by_request[1]) {
    ASSERT_EQ(output.top.size(), 3U);
    EXPECT_EQ(output.top[0].token, *output.token);
    EXPECT_EQ(output.top[0].logprob, output.logprob);
  }
  for (const Output& output : b.sink.by_request[2]) {
    EXPECT_TRUE(output.top.empty());
    EXPECT_EQ(output.logprob, kDrawnLogprob);
  }
}

TEST(Core, AbortEndsARequestWhereverItIs) {
  SimulatedOptions options = small_core();
  options.worker.sequences_max = 1;
  Bench b(options);
  b.core.accept(b.request(1, prompt_of(5, 100), 9));
  b.core.accept(b.request(2, prompt_of(5, 200), 9));
  b.pass();
  b.core.abort({2});   // waiting
  b.core.abort({77});  // unknown
  b.core.deliver();
  EXPECT_EQ(b.sink.finish(2), FinishReason::kCancelled);
  EXPECT_TRUE(b.sink.tokens(2).empty());
  EXPECT_EQ(b.core.load().waiting, 0U);
  b.core.abort({1});  // running
  b.core.abort({1});
  b.core.deliver();
  EXPECT_EQ(b.sink.finish(1), FinishReason::kCancelled);
  EXPECT_EQ(b.sink.tokens(1).size(), 1U);
  EXPECT_EQ(b.sink.by_request[1].back().usage.completion_tokens, 1U);
  EXPECT_TRUE(b.core.idle());
}

TEST(Core, DeadlinesEndThoseThatAreDueAndNobodyElse) {
  Bench b;
  const TimePoint start{};
  GenerateRequest r = b.request(1, prompt_of(5, 100), 50);
  r.deadline = Deadline(start + milliseconds(20));
  b.core.accept(r);
  r = b.request(2, prompt_of(5, 200), 50);
  r.deadline = Deadline(start + milliseconds(10));
  b.core.accept(r);
  b.core.accept(b.request(3, prompt_of(5, 300), 50));
  b.pass();
  b.core.expire(start + milliseconds(9));
  EXPECT_EQ(b.core.load().running, 3U);
  b.core.expire(start + milliseconds(10));
  EXPECT_EQ(b.core.load().running, 2U);
  b.core.expire(start + milliseconds(19));
  EXPECT_EQ(b.core.load().running, 2U);
  b.core.expire(start + milliseconds(25));
  EXPECT_EQ(b.core.load().running, 1U);
  b.core.deliver();
  EXPECT_EQ(b.sink.finish(1), FinishReason::kCancelled);
  EXPECT_EQ(b.sink.finish(2), FinishReason::kCancelled);
  b.run();
  EXPECT_EQ(b.sink.finish(3), FinishReason::kLength);
}

TEST(Core, ALaterTurnFindsPromptAndAnswerOfTheOneBefore) {
  Bench b;
  const GenerateRequest first = b.request(1, prompt_of(10, 100), 7);
  b.core.accept(first);
  b.run();
  std::vector<Token> conversation = first.prompt;
  for (const Token t : b.sink.tokens(1)) conversation.push_back(t);
  conversation.push_back(5);
  b.core.accept(b.request(2, conversation, 1));
  b.run();
  // 10 + 7 tokens, the last of which was never computed: 4 full blocks.
  EXPECT_EQ(b.sink.by_request[2].back().usage.cached_tokens, 16U);
  EXPECT_EQ(b.core.load().cached_tokens, 16U);

  GenerateRequest salted = b.request(3, conversation, 1);
  salted.cache_salt = "tenant";
  b.core.accept(salted);
  b.run();
  EXPECT_EQ(b.sink.by_request[3].back().usage.cached_tokens, 0U);
}

TEST(Core, EventsNameBlocksByTheirContent) {
  Bench b;
  GenerateRequest r = b.request(1, prompt_of(10, 100), 7);
  r.cache_salt = "tenant";
  b.core.accept(r);
  b.run();
  std::vector<Token> tokens = r.prompt;
  for (const Token t : b.sink.tokens(1)) tokens.push_back(t);
  std::vector<kv::Event> events;
  ASSERT_TRUE(b.events.read(1, 100, events));
  ASSERT_EQ(events.size(), 4U);
  kv::BlockHash parent = kv::chain_root(b.options.model, "", "tenant");
  for (std::size_t i = 0; i < events.size(); ++i) {
    const auto block = std::span(tokens).subspan(i * 4, 4);
    EXPECT_EQ(events[i].sequence, i + 1);
    EXPECT_EQ(events[i].kind, kv::Event::Kind::kStored);
    EXPECT_EQ(events[i].parent, parent);
    EXPECT_EQ(events[i].begins_chain, i == 0);
    EXPECT_EQ(events[i].hash, kv::chain_next(parent, block));
    EXPECT_EQ(events[i].tokens, std::vector<Token>(block.begin(), block.end()));
    EXPECT_EQ(events[i].local, kv::LocalHasher("", "tenant").block(block));
    parent = events[i].hash;
  }
}

TEST(Core, LoadSaysWhatIsThere) {
  SimulatedOptions options = small_core();
  options.worker.sequences_max = 1;
  options.worker.pass_tokens_max = 8;
  Bench b(options);
  b.core.accept(b.request(1, prompt_of(20, 100), 3));
  b.core.accept(b.request(2, prompt_of(5, 200), 1));
  EXPECT_EQ(b.core.load().waiting_prefill_tokens, 25U);
  b.pass();
  LoadReport load = b.core.load();
  EXPECT_EQ(load.running, 1U);
  EXPECT_EQ(load.waiting, 1U);
  EXPECT_EQ(load.waiting_prefill_tokens, 17U);
  EXPECT_EQ(load.kv_blocks_used, 2U);
  EXPECT_EQ(load.kv_blocks_max, 64U);
  EXPECT_EQ(load.steps, 1U);
  b.run();
  load = b.core.load();
  EXPECT_EQ(load.running + load.waiting, 0U);
  EXPECT_EQ(load.prompt_tokens, 25U);
  EXPECT_EQ(load.completion_tokens, 4U);
}

/// A pool far too small for the load: answers must not change, and the events must add up.
class CoreUnderPressure : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(CoreUnderPressure, AnswersAreThoseOfAnIdleEngine) {
  std::mt19937 random(GetParam());
  SimulatedOptions options = small_core();
  options.worker.kv_blocks = 16;
  options.worker.sequences_max = 6;
  options.eos_probability = 0.01;
  Bench b(options);
  std::map<std::uint64_t, GenerateRequest> requests;
  std::map<std::uint64_t, bool> aborted;
  std::uint64_t id = 0;
  while (id < 60 || !b.core.idle()) {
    if (id < 60 && random() % 2 == 0) {
      ++id;
      GenerateRequest r =
          b.request(id, prompt_of(1 + random() % 30, 100 + random() % 3 * 1000), 1 + random() % 40);
      requests.emplace(id, r);
      b.core.accept(r);
    }
    if (random() % 20 == 0 && id > 0) {
      const std::uint64_t victim = 1 + random() % id;
      aborted[victim] = true;
      b.core.abort({victim});
    }
    if (!b.core.idle()) b.pass();
  }
  b.core.deliver();
  EXPECT_GT(b.core.load().preemptions, 0U);
  for (const auto& [number, r] : requests) {
    const WholeAnswer whole = whole_answer(options, r);
    std::vector<Token> tokens = b.sink.tokens(number);
    if (b.sink.finish(number) == FinishReason::kCancelled) {
      EXPECT_TRUE(aborted[number]);
      ASSERT_LE(tokens.size(), whole.tokens.size());
      EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), whole.tokens.begin()));
    } else {
      EXPECT_EQ(tokens, whole.tokens);
      EXPECT_EQ(b.sink.finish(number), whole.finish);
    }
  }
  // Replaying the events gives the snapshot, and the snapshot what the pool says it holds.
  std::vector<kv::Event> events;
  ASSERT_TRUE(b.events.read(1, 1'000'000, events));
  std::map<kv::BlockHash, std::vector<Token>> replayed;
  for (const kv::Event& event : events) {
    if (event.kind == kv::Event::Kind::kStored) {
      ASSERT_TRUE(replayed.emplace(event.hash, event.tokens).second);
    } else {
      ASSERT_EQ(replayed.erase(event.hash), 1U);
    }
  }
  std::uint64_t sequence = 0;
  std::map<kv::BlockHash, std::vector<Token>> held;
  for (const kv::Event& event : b.events.snapshot(sequence)) held[event.hash] = event.tokens;
  EXPECT_EQ(sequence, events.size());
  EXPECT_EQ(held, replayed);
  EXPECT_EQ(held.size(), b.core.load().kv_blocks_used);
}

INSTANTIATE_TEST_SUITE_P(Seeds, CoreUnderPressure, ::testing::Range(1U, 11U));

}  // namespace
}  // namespace penstock::engine::simulated
