#include "engine/simulated/simulated_engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <set>
#include <thread>
#include <vector>

#include "engine/announced_reader_for_test.h"
#include "engine/simulated/answer.h"
#include "engine/sink_for_test.h"

namespace penstock::engine {
namespace {

using simulated::whole_answer;

SimulatedOptions fast_worker() {
  SimulatedOptions options;
  options.worker.speedup = SimulatedOptions::kSpeedupMax;
  for (Token t = 10; t < 60; ++t) options.vocabulary.push_back(t);
  return options;
}

/// A worker whose passes never end within a test: what it runs stays running.
SimulatedOptions frozen_worker() {
  SimulatedOptions options = fast_worker();
  options.worker.speedup = 1e-9;
  return options;
}

GenerateRequest short_request(std::uint64_t id, OutputSink& sink, std::uint32_t max_tokens,
                              std::size_t prompt = 5) {
  std::vector<Token> tokens(prompt, static_cast<Token>(id % 50));
  return {.id = {id}, .sink = &sink, .prompt = std::move(tokens), .max_tokens = max_tokens};
}

class SimulatedEngineTest : public ::testing::Test {
 protected:
  SteadyClock clock_;
  TestSink sink_;  // declared before the engines of the tests: it outlives them
};

TEST_F(SimulatedEngineTest, AnswersAsPredicted) {
  const SimulatedOptions options = fast_worker();
  const auto engine = make_simulated_engine(options, clock_);
  const GenerateRequest r = short_request(1, sink_, 32);
  const std::vector<Token> expected = whole_answer(options, r).tokens;
  ASSERT_TRUE(engine->generate(r));
  EXPECT_EQ(sink_.wait(1), FinishReason::kLength);
  EXPECT_EQ(sink_.tokens(1), expected);
  EXPECT_EQ(sink_.calls(), 1);  // 32 passes, one delivery
}

TEST_F(SimulatedEngineTest, InfoSaysWhatTheOptionsMean) {
  SimulatedOptions options = fast_worker();
  options.model = "toy";
  options.worker.kv_blocks = 100;
  options.embedding_size = 8;
  const auto engine = make_simulated_engine(options, clock_);
  const EngineInfo& info = engine->info();
  EXPECT_EQ(info.model, "toy");
  EXPECT_EQ(info.block_tokens, 64U);
  EXPECT_EQ(info.context_tokens_max, 6400U);
  EXPECT_EQ(info.kv_blocks_max, 100U);
  EXPECT_EQ(info.sequences_max, 256U);
  EXPECT_EQ(info.queue_max, 1024U);
  EXPECT_EQ(info.vocabulary_size, 60U);
  EXPECT_EQ(info.embedding_size, 8U);
}

TEST_F(SimulatedEngineTest, RefusesWhatCanNeverRunAndSaysWhy) {
  SimulatedOptions options = fast_worker();
  options.context_tokens_max = 100;
  const auto engine = make_simulated_engine(options, clock_);
  const auto code = [&](GenerateRequest r) {
    const auto result = engine->generate(std::move(r));
    EXPECT_FALSE(result);
    EXPECT_FALSE(result.error().message.empty());
    return result.error().code;
  };
  EXPECT_EQ(code(short_request(1, sink_, 1, 100)), Code::kInvalidArgument);
  EXPECT_EQ(code(short_request(1, sink_, 1, 0)), Code::kInvalidArgument);
  EXPECT_EQ(code(short_request(1, sink_, 0)), Code::kInvalidArgument);
  GenerateRequest r = short_request(1, sink_, 1);
  r.grammar.gbnf = "root ::= \"a\"";
  EXPECT_EQ(code(r), Code::kUnprocessable);
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 500, 99)));
  EXPECT_EQ(sink_.wait(1), FinishReason::kLength);
  EXPECT_EQ(sink_.tokens(1).size(), 1U);
}

TEST_F(SimulatedEngineTest, WhatItSaysAnewIsAnnounced) {
  AnnouncedReader reader;
  const auto engine = make_simulated_engine(fast_worker(), clock_);
  reader.follow(*engine);
  for (std::uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(engine->generate(short_request(id, sink_, 5, 200)));
    sink_.wait(id);
    EXPECT_TRUE(reader.is_up_to_date());
    EXPECT_EQ(reader.load().completion_tokens, 5 * id);
    EXPECT_EQ(reader.events(), 3 * id);
  }
  ASSERT_TRUE(engine->clear_cache());
  EXPECT_TRUE(until([&] { return engine->kv_events()->last_sequence() > 9; }));
  EXPECT_TRUE(reader.is_up_to_date());
}

TEST_F(SimulatedEngineTest, APassUnderWayIsAnnounced) {
  AnnouncedReader reader;
  const auto engine = make_simulated_engine(frozen_worker(), clock_);
  reader.follow(*engine);
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 5)));
  EXPECT_TRUE(until([&] { return engine->load().pass_started != TimePoint::min(); }));
  EXPECT_TRUE(reader.is_up_to_date());
  EXPECT_EQ(reader.load().pass.prefill_tokens, 5U);
}

TEST_F(SimulatedEngineTest, PassesTakeTheirTime) {
  // 3 passes of a prompt: the only claim is a lower bound, which no slow machine can break.
  SimulatedOptions options = fast_worker();
  options.worker.speedup = 2;
  const auto engine = make_simulated_engine(options, clock_);
  const TimePoint start = clock_.now();
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 3)));
  sink_.wait(1);
  const simulated::PolynomialClock model;
  const double least_ms = (model.prefill_ms(5) + 3 * model.decode_ms(0)) / 2;
  EXPECT_GE(to_ms(clock_.now() - start), least_ms);
  EXPECT_EQ(sink_.calls(), 3);
}

TEST_F(SimulatedEngineTest, AFullQueueIsRefusedWithATimeToComeBack) {
  SimulatedOptions options = frozen_worker();
  options.worker.sequences_max = 2;
  options.queue_max = 3;
  options.retry_after_s = 4;
  {
    const auto engine = make_simulated_engine(options, clock_);
    for (std::uint64_t id = 1; id <= 5; ++id)
      ASSERT_TRUE(engine->generate(short_request(id, sink_, 9)));
    const auto refused = engine->generate(short_request(6, sink_, 9));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kOverloaded);
    EXPECT_EQ(refused.error().retry_after_s, 4);
    EXPECT_EQ(engine->load().running + engine->load().waiting, 5U);
  }
  EXPECT_EQ(sink_.finished(), 5U);
  EXPECT_EQ(sink_.wait(3), FinishReason::kCancelled);
}

TEST_F(SimulatedEngineTest, AbortAndDeadlineEndARequestThatWouldRunForLong) {
  SimulatedOptions options = fast_worker();
  options.worker.speedup = 20;
  const auto engine = make_simulated_engine(options, clock_);
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 100'000)));
  GenerateRequest r = short_request(2, sink_, 100'000);
  r.deadline = Deadline(clock_.now() + std::chrono::milliseconds(30));
  ASSERT_TRUE(engine->generate(r));
  EXPECT_EQ(sink_.wait(2), FinishReason::kCancelled);
  EXPECT_GE(clock_.now(), r.deadline.at());
  sink_.wait_for_tokens(1, 2);
  engine->abort({1}, CancelReason::kClientGone);
  EXPECT_EQ(sink_.wait(1), FinishReason::kCancelled);
  engine->abort({1}, CancelReason::kClientGone);  // ignored
  EXPECT_EQ(engine->load().running, 0U);
}

TEST_F(SimulatedEngineTest, NewcomersAreNotStarvedByALongAnswer) {
  SimulatedOptions options = fast_worker();
  const auto engine = make_simulated_engine(options, clock_);
  // Long enough to be still running when the short one comes; whether or not it is, both end.
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 100'000)));
  sink_.wait_for_tokens(1, 1);
  ASSERT_TRUE(engine->generate(short_request(2, sink_, 2)));
  EXPECT_EQ(sink_.wait(2), FinishReason::kLength);
  engine->abort({1}, CancelReason::kClientGone);
  sink_.wait(1);
}

TEST_F(SimulatedEngineTest, TheDestructorCancelsWhatRunsWaitsOrHasJustComeIn) {
  {
    SimulatedOptions options = frozen_worker();
    options.worker.sequences_max = 2;
    const auto engine = make_simulated_engine(options, clock_);
    for (std::uint64_t id = 1; id <= 20; ++id)
      ASSERT_TRUE(engine->generate(short_request(id, sink_, 9)));
  }
  EXPECT_EQ(sink_.finished(), 20U);
  for (std::uint64_t id = 1; id <= 20; ++id) EXPECT_EQ(sink_.wait(id), FinishReason::kCancelled);
}

TEST_F(SimulatedEngineTest, EmbedsIfItHasASize) {
  SimulatedOptions options = fast_worker();
  {
    const auto engine = make_simulated_engine(options, clock_);
    const auto refused = engine->embed({.tokens = {1, 2}}, [](auto) { ADD_FAILURE(); });
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kUnprocessable);
  }
  options.embedding_size = 32;
  const auto engine = make_simulated_engine(options, clock_);
  std::promise<std::vector<float>> promise;
  ASSERT_TRUE(engine->embed({.tokens = {1, 2}}, [&](Result<std::vector<float>> result) {
    promise.set_value(std::move(result).value());
  }));
  EXPECT_EQ(promise.get_future().get(), simulated::embedding(std::vector<Token>{1, 2}, 32));
  EXPECT_FALSE(engine->embed({.tokens = {}}, [](auto) { ADD_FAILURE(); }));
}

TEST_F(SimulatedEngineTest, AnIdIsTakenUntilItsEnd) {
  const auto engine = make_simulated_engine(frozen_worker(), clock_);
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 9)));
  EXPECT_EQ(engine->generate(short_request(1, sink_, 9)).error().code, Code::kInvalidArgument);
}

TEST_F(SimulatedEngineTest, TellsWhatItCachesAndHowMuchItDid) {
  const auto engine = make_simulated_engine(fast_worker(), clock_);
  ASSERT_TRUE(engine->generate(short_request(1, sink_, 1, 200)));
  sink_.wait(1);
  ASSERT_TRUE(engine->generate(short_request(51, sink_, 1, 200)));  // the same prompt
  sink_.wait(51);
  const LoadReport load = engine->load();
  EXPECT_EQ(load.prompt_tokens, 400U);
  EXPECT_EQ(load.cached_tokens, 192U);
  EXPECT_EQ(load.completion_tokens, 2U);
  EXPECT_EQ(load.kv_blocks_used, 3U);
  EXPECT_GT(engine->load().generation, load.generation);
  ASSERT_NE(engine->kv_events(), nullptr);
  std::uint64_t sequence = 0;
  EXPECT_EQ(engine->kv_events()->snapshot(sequence).size(), 3U);
  EXPECT_EQ(sequence, 3U);

  SimulatedOptions options = fast_worker();
  options.worker.prefix_caching = false;
  EXPECT_EQ(make_simulated_engine(options, clock_)->kv_events(), nullptr);
}

TEST_F(SimulatedEngineTest, ACacheIsClearedBeforeWhatIsAskedNext) {
  const auto engine = make_simulated_engine(fast_worker(), clock_);
  for (std::uint64_t id = 1; id <= 3; ++id) {
    GenerateRequest r = short_request(id, sink_, 1, 200);
    r.prompt.assign(200, 7);
    ASSERT_TRUE(engine->generate(std::move(r)));
    EXPECT_EQ(sink_.wait_for_end(id).usage.cached_tokens, id == 2 ? 192U : 0U);
    if (id == 2) {
      ASSERT_TRUE(engine->clear_cache());
    }
  }
  SimulatedOptions options = fast_worker();
  options.worker.prefix_caching = false;
  EXPECT_EQ(make_simulated_engine(options, clock_)->clear_cache().error().code,
            Code::kUnprocessable);
}

/// Answers from within deliver(), as a front end might.
class Chain final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    for (const Output& output : outputs) {
      if (!output.finish) continue;
      if (output.request.value == kLast) {
        done.set_value();
      } else {
        EXPECT_TRUE(engine->generate(short_request(output.request.value + 1, *this, 2)));
        engine->abort(output.request, CancelReason::kClientGone);
        EXPECT_GT(engine->load().generation, 0U);
      }
    }
  }
  static constexpr std::uint64_t kLast = 100;
  Engine* engine = nullptr;
  std::promise<void> done;
};

TEST_F(SimulatedEngineTest, ASinkMayCallTheEngine) {
  Chain chain;
  const auto engine = make_simulated_engine(fast_worker(), clock_);
  chain.engine = engine.get();
  ASSERT_TRUE(engine->generate(short_request(1, chain, 2)));
  chain.done.get_future().get();
}

TEST_F(SimulatedEngineTest, ManyThreadsEachGetTheirAnswersWhole) {
  SimulatedOptions options = fast_worker();
  options.worker.kv_blocks = 40;  // preemptions and evictions all the time
  options.worker.sequences_max = 8;
  options.queue_max = 16;
  constexpr std::uint64_t kThreads = 4;
  constexpr std::uint64_t kEach = 200;
  const auto engine = make_simulated_engine(options, clock_);
  std::atomic<bool> stop = false;
  std::thread watcher([&] {
    std::uint64_t generation = 0;
    std::uint64_t next = 1;
    while (!stop) {
      const LoadReport load = engine->load();
      EXPECT_GT(load.generation, generation);
      generation = load.generation;
      std::vector<kv::Event> events;
      if (engine->kv_events()->read(next, 100, events)) {
        for (const kv::Event& event : events) EXPECT_EQ(event.sequence, next++);
      } else {
        std::uint64_t sequence = 0;
        engine->kv_events()->snapshot(sequence);
        next = sequence + 1;
      }
    }
  });
  {
    std::vector<std::jthread> clients;
    for (std::uint64_t t = 0; t < kThreads; ++t) {
      clients.emplace_back([&, t] {
        TestSink sink;
        for (std::uint64_t i = 0; i < kEach; ++i) {
          const std::uint64_t id = t * kEach + i + 1;
          const GenerateRequest r = short_request(id, sink, 1 + i % 150, 1 + (i * 37) % 700);
          while (true) {
            const auto result = engine->generate(r);
            if (result) break;
            ASSERT_EQ(result.error().code, Code::kOverloaded);
            std::this_thread::yield();
          }
          if (i % 5 == 0) engine->abort({id}, CancelReason::kClientGone);
          if (sink.wait(id) == FinishReason::kLength) {
            EXPECT_EQ(sink.tokens(id), whole_answer(options, r).tokens);
          } else {
            EXPECT_EQ(i % 5, 0U);
          }
        }
      });
    }
  }
  stop = true;
  watcher.join();
  EXPECT_EQ(engine->load().running + engine->load().waiting, 0U);
}

}  // namespace
}  // namespace penstock::engine
