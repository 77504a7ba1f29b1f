#include "engine/llama/llama_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "engine/announced_reader_for_test.h"
#include "kv/local_hash.h"
#include "text/tiny_model.h"

namespace penstock::engine {
namespace {

struct Answer {
  std::vector<Token> tokens;
  std::optional<FinishReason> finish;
  Usage usage;
  std::string error;
  std::vector<float> logprobs;
};

/// Collects what engines deliver and lets a test wait for it.
class Collector final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    const std::lock_guard lock(mutex_);
    for (Output& o : outputs) {
      Answer& a = answers_[o.request.value];
      EXPECT_FALSE(a.finish.has_value()) << "output after the finish";
      if (o.token) {
        a.tokens.push_back(*o.token);
        a.logprobs.push_back(o.logprob);
      }
      a.usage = o.usage;
      if (o.finish) {
        a.finish = o.finish;
        a.error = o.error;
        ++finished_;
      }
    }
    changed_.notify_all();
  }
  Answer wait(RequestId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answers_[id.value].finish.has_value(); });
    return answers_[id.value];
  }
  void wait_for_token(RequestId id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [&] { return !answers_[id.value].tokens.empty() || answers_[id.value].finish; });
  }
  std::size_t finished() {
    const std::lock_guard lock(mutex_);
    return finished_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Answer> answers_;
  std::size_t finished_ = 0;
};

#if defined(__SANITIZE_THREAD__)
#define PENSTOCK_UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_UNDER_TSAN 1
#endif
#endif
#ifdef PENSTOCK_UNDER_TSAN
// ggml's own threads are not compiled with the sanitizer, which then cannot see how they agree.
constexpr std::uint32_t kThreads = 1;
#else
constexpr std::uint32_t kThreads = 2;
#endif

class LlamaEngineTest : public testing::Test {
 protected:
  std::unique_ptr<Engine> engine(LlamaOptions options = {}) {
    options.threads = kThreads;
    if (options.context_tokens == 4096) options.context_tokens = 1024;
    Result<std::unique_ptr<Engine>> made = make_llama_engine(model_, options, clock_);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    return std::move(*made);
  }

  GenerateRequest request(std::vector<Token> prompt, std::uint32_t max_tokens = 8) {
    GenerateRequest r;
    r.id = RequestId{++last_id_};
    r.sink = &sink_;
    r.prompt = std::move(prompt);
    r.max_tokens = max_tokens;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    return r;
  }

  Answer run(Engine& e, GenerateRequest r) {
    const RequestId id = r.id;
    const Result<void> queued = e.generate(std::move(r));
    EXPECT_TRUE(queued.has_value()) << (queued ? "" : queued.error().message);
    return sink_.wait(id);
  }

  std::vector<Token> tokens(std::size_t count, std::uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<Token> made(count);
    for (Token& t : made) t = static_cast<Token>(random() % 256);
    return made;
  }

  std::shared_ptr<const text::ModelFile> model_ = text::tiny_model();
  SteadyClock clock_;
  Collector sink_;
  std::uint64_t last_id_ = 0;
};

TEST_F(LlamaEngineTest, AnswersAndStopsAtTheLimit) {
  const auto e = engine();
  const Answer a = run(*e, request(tokens(100, 1), 12));
  EXPECT_EQ(a.finish, FinishReason::kLength);
  EXPECT_EQ(a.tokens.size(), 12u);
  EXPECT_EQ(a.usage.prompt_tokens, 100u);
  EXPECT_EQ(a.usage.completion_tokens, 12u);
  EXPECT_EQ(a.usage.cached_tokens, 0u);
}

TEST_F(LlamaEngineTest, WhatItSaysAnewIsAnnounced) {
  AnnouncedReader reader;
  const auto e = engine();
  reader.follow(*e);
  for (std::uint32_t i = 1; i <= 3; ++i) {
    run(*e, request(tokens(100, i), 12));
    EXPECT_TRUE(reader.is_up_to_date());
    EXPECT_EQ(reader.load().completion_tokens, 12 * i);
    EXPECT_GE(reader.events(), i);
  }
}

TEST_F(LlamaEngineTest, SaysWhatAPromptTokenCostsBeforeAnyWasAskedFor) {
  const auto e = engine();
  EXPECT_TRUE(until([&] { return e->load().prompt_token_cost > Nanos::zero(); }));
  EXPECT_NE(e->load().prompt_token_cost, std::chrono::milliseconds(5));  // as before it is timed
  EXPECT_EQ(e->load().steps, 0U);
  EXPECT_EQ(e->load().last_prefill_pass.ordinal, 0U);
}

TEST_F(LlamaEngineTest, TellsHowLongARequestWaitedSinceItArrived) {
  const auto e = engine();
  GenerateRequest r = request(tokens(100, 1));
  const TimePoint begin = clock_.now();
  r.arrived = begin - std::chrono::hours(1);
  const Answer a = run(*e, std::move(r));
  EXPECT_GE(a.usage.queued, std::chrono::hours(1));
  EXPECT_LE(a.usage.queued, std::chrono::hours(1) + (clock_.now() - begin));
}

TEST_F(LlamaEngineTest, ContextIsTheOtherLimit) {
  const auto e = engine();
  const Answer a = run(*e, request(tokens(1020, 1), 100));
  EXPECT_EQ(a.finish, FinishReason::kLength);
  EXPECT_EQ(a.tokens.size(), 4u);
}

TEST_F(LlamaEngineTest, ExactAnswersDependOnNothingElse) {
  // Alone and cold in a fresh worker: what every other way must give.
  std::vector<std::vector<Token>> prompts;
  std::mt19937 random(4);
  const std::vector<Token> stem = tokens(700, 99);
  for (std::uint32_t i = 0; i < 8; ++i) {
    std::vector<Token> p(stem.begin(), stem.begin() + static_cast<std::ptrdiff_t>(random() % 700));
    const std::vector<Token> rest = tokens(1 + random() % 250, 100 + i);
    p.insert(p.end(), rest.begin(), rest.end());
    prompts.push_back(std::move(p));
  }
  const auto ask = [&](const std::vector<Token>& prompt) {
    GenerateRequest r = request(prompt, 16);
    r.top_logprobs = 0;  // tokens alone would hide what rounds otherwise
    return r;
  };
  std::vector<Answer> expected;
  for (const auto& p : prompts) {
    const auto fresh = engine({.sequences_max = 1, .exact = true});
    expected.push_back(run(*fresh, ask(p)));
  }
  // One worker, everything at once, several times: concurrent twins, warm and half-evicted cache.
  const std::uint64_t token_bytes = 2 * 2 * 32 * 2;  // layers, K and V, width, f16
  struct Case {
    std::uint64_t budget;
    std::uint32_t step;
    std::uint32_t block;
  };
  for (const auto& [budget, step, block] :
       {Case{1 << 26, 512, 64}, Case{9 * 64 * token_bytes, 64, 64}, Case{0, 512, 64},
        Case{57 * 10 * token_bytes, 64, 10}}) {
    const auto e = engine({.sequences_max = 5,
                           .block_tokens = block,
                           .reuse_bytes = budget,
                           .step_tokens = step,
                           .exact = true});
    for (int round = 0; round < 2; ++round) {
      std::vector<RequestId> ids;
      for (const auto& p : prompts) {
        GenerateRequest r = ask(p);
        ids.push_back(r.id);
        ASSERT_TRUE(e->generate(std::move(r)).has_value());
      }
      std::uint64_t cached = 0;
      for (std::size_t i = 0; i < ids.size(); ++i) {
        const Answer a = sink_.wait(ids[i]);
        EXPECT_EQ(a.tokens, expected[i].tokens)
            << "prompt " << i << " of " << prompts[i].size() << ", budget " << budget;
        EXPECT_EQ(a.logprobs, expected[i].logprobs) << "prompt " << i << ", budget " << budget;
        cached += a.usage.cached_tokens;
      }
      if (budget >= 1ULL << 26) {
        EXPECT_GT(cached, 0u);
      }
    }
  }
}

TEST_F(LlamaEngineTest, PrefixIsReusedAndToldInEvents) {
  const auto e = engine();
  const std::vector<Token> prompt = tokens(300, 7);
  const Answer cold = run(*e, request(prompt));
  const Answer warm = run(*e, request(prompt));
  EXPECT_EQ(warm.usage.cached_tokens, 256u);
  EXPECT_EQ(warm.tokens, cold.tokens);
  GenerateRequest salted = request(prompt);
  salted.cache_salt = "another tenant";
  EXPECT_EQ(run(*e, std::move(salted)).usage.cached_tokens, 0u);

  std::vector<kv::Event> events;
  ASSERT_TRUE(e->kv_events()->read(1, 1000, events).has_value());
  ASSERT_EQ(events.size(), 8u);  // four blocks for each salt
  kv::BlockHash parent = kv::chain_root(e->info().model, "", "");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(events[i].sequence, i + 1);
    EXPECT_EQ(events[i].parent, parent);
    EXPECT_EQ(events[i].begins_chain, i == 0);
    const auto block = std::span(prompt).subspan(i * 64, 64);
    EXPECT_EQ(events[i].hash, kv::chain_next(parent, block));
    EXPECT_TRUE(std::ranges::equal(events[i].tokens, block));
    EXPECT_EQ(events[i].local, kv::LocalHasher().block(block));
    EXPECT_EQ(events[i + 4].local, kv::LocalHasher("", "another tenant").block(block));
    parent = events[i].hash;
  }
}

TEST_F(LlamaEngineTest, EventsAlwaysAddUpToTheSnapshot) {
  const std::uint64_t block_bytes = 16 * 2 * 2 * 32 * 2;
  const auto e = engine({.sequences_max = 3, .block_tokens = 16, .reuse_bytes = 40 * block_bytes});
  std::mt19937 random(3);
  const std::vector<Token> stem = tokens(400, 5);
  for (int i = 0; i < 40; ++i) {
    std::vector<Token> p(stem.begin(), stem.begin() + static_cast<std::ptrdiff_t>(random() % 400));
    const auto tail = tokens(20 + random() % 100, random());
    p.insert(p.end(), tail.begin(), tail.end());
    run(*e, request(p, 1 + random() % 30));
  }
  std::map<kv::BlockHash, kv::BlockHash> held;  // block -> parent
  std::vector<kv::Event> events;
  ASSERT_TRUE(e->kv_events()->read(1, 1 << 20, events).has_value());
  const kv::BlockHash root = kv::chain_root(e->info().model, "", "");
  std::uint64_t sequence = 0;
  for (const kv::Event& event : events) {
    EXPECT_EQ(event.sequence, ++sequence);
    if (event.kind == kv::Event::Kind::kStored) {
      EXPECT_TRUE(event.parent == root || held.contains(event.parent));
      EXPECT_TRUE(held.emplace(event.hash, event.parent).second);
    } else {
      EXPECT_EQ(held.erase(event.hash), 1u);
      for (const auto& [block, parent] : held)
        EXPECT_NE(parent, event.hash) << "removed before its child";
    }
    EXPECT_LE(held.size(), 40u);
  }
  EXPECT_EQ(held.size(), e->load().kv_blocks_used);
  std::uint64_t at = 0;
  const std::vector<kv::Event> snapshot = e->kv_events()->snapshot(at);
  EXPECT_EQ(at, sequence);
  EXPECT_EQ(snapshot.size(), held.size());
  for (const kv::Event& event : snapshot) EXPECT_TRUE(held.contains(event.hash));
  EXPECT_GT(e->load().blocks_evicted, 0u);
}

/// What has happened since the event `from`, in short: + stored, - removed, 0 cleared.
std::string events_since(const Engine& engine, std::uint64_t from) {
  std::vector<kv::Event> events;
  EXPECT_TRUE(engine.kv_events()->read(from, 1000, events).has_value());
  std::string kinds;
  for (const kv::Event& event : events) kinds += "+-0"[static_cast<int>(event.kind)];
  return kinds;
}

TEST_F(LlamaEngineTest, AClearedCacheHoldsNothingButWhatIsInUse) {
  const auto e = engine();
  const std::vector<Token> prompt = tokens(300, 7);
  run(*e, request(prompt));
  ASSERT_TRUE(e->clear_cache().has_value());
  EXPECT_EQ(run(*e, request(prompt)).usage.cached_tokens, 0u);
  EXPECT_EQ(events_since(*e, 1), "++++0++++");
  EXPECT_EQ(e->load().kv_blocks_used, 4u);

  GenerateRequest busy = request(tokens(130, 8), 900);
  const RequestId busy_id = busy.id;
  ASSERT_TRUE(e->generate(std::move(busy)).has_value());
  sink_.wait_for_token(busy_id);
  ASSERT_TRUE(e->clear_cache().has_value());
  EXPECT_EQ(run(*e, request(prompt)).usage.cached_tokens, 0u);
  EXPECT_EQ(events_since(*e, 10), "++----++++");
  e->abort(busy_id, CancelReason::kClientGone);
  sink_.wait(busy_id);
  EXPECT_EQ(run(*e, request(tokens(130, 8))).usage.cached_tokens, 128u);

  ASSERT_TRUE(e->clear_cache().has_value());
  run(*e, request(tokens(10, 1)));
  EXPECT_EQ(events_since(*e, 20), "0");
  EXPECT_EQ(e->load().kv_blocks_used, 0u);
  EXPECT_EQ(e->load().blocks_evicted, 0u);
  ASSERT_TRUE(e->clear_cache().has_value());  // nothing is there, so nothing is told
  EXPECT_EQ(run(*e, request(prompt)).usage.cached_tokens, 0u);
  EXPECT_EQ(events_since(*e, 21), "++++");

  EXPECT_EQ(engine({.reuse_bytes = 0})->clear_cache().error().code, Code::kUnprocessable);
}

TEST_F(LlamaEngineTest, RefusesWhatCanNeverRun) {
  const auto e = engine();
  EXPECT_EQ(e->generate(request({})).error().code, Code::kInvalidArgument);
  EXPECT_EQ(e->generate(request(tokens(1024, 1))).error().code, Code::kInvalidArgument);
  EXPECT_EQ(e->generate(request({text::kTinyVocabulary})).error().code, Code::kInvalidArgument);
  EXPECT_EQ(e->generate(request({-1})).error().code, Code::kInvalidArgument);
  GenerateRequest bad = request({1});
  bad.grammar.gbnf = "root ::= (";
  EXPECT_EQ(e->generate(std::move(bad)).error().code, Code::kInvalidArgument);
  GenerateRequest bias = request({1});
  bias.sampling.logit_bias.emplace_back(100000, 1.0F);
  EXPECT_EQ(e->generate(std::move(bias)).error().code, Code::kInvalidArgument);
  EXPECT_EQ(sink_.finished(), 0u);
}

TEST_F(LlamaEngineTest, QueueIsBoundedAndNothingAcceptedIsLost) {
  const auto e = engine({.sequences_max = 1, .queue_max = 2});
  GenerateRequest busy = request(tokens(10, 1), 900);
  const RequestId busy_id = busy.id;
  ASSERT_TRUE(e->generate(std::move(busy)).has_value());
  sink_.wait_for_token(busy_id);
  std::vector<RequestId> accepted;
  bool refused = false;
  for (int i = 0; i < 4; ++i) {
    GenerateRequest r = request(tokens(10, 2), 2);
    const RequestId id = r.id;
    const Result<void> queued = e->generate(std::move(r));
    if (queued) {
      accepted.push_back(id);
    } else {
      refused = true;
      EXPECT_EQ(queued.error().code, Code::kOverloaded);
      EXPECT_GT(queued.error().retry_after_s, 0);
    }
  }
  EXPECT_TRUE(refused);
  e->abort(busy_id, CancelReason::kClientGone);
  EXPECT_EQ(sink_.wait(busy_id).finish, FinishReason::kCancelled);
  for (const RequestId id : accepted) EXPECT_EQ(sink_.wait(id).finish, FinishReason::kLength);
}

TEST_F(LlamaEngineTest, PartsOfBlocksAreReusedToo) {
  const auto e = engine({.block_tokens = 64});
  const std::vector<Token> known = tokens(300, 5);
  EXPECT_EQ(run(*e, request(known)).usage.cached_tokens, 0U);
  for (const std::size_t common : {10, 64, 100, 128, 250}) {
    std::vector<Token> prompt(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(common));
    const std::vector<Token> rest = tokens(40, 100 + static_cast<std::uint32_t>(common));
    prompt.push_back((known[common] + 1) % 256);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    EXPECT_EQ(run(*e, request(prompt)).usage.cached_tokens, common);
  }
}

TEST_F(LlamaEngineTest, FreePlacesAreNotPartOfTheQueue) {
  const auto e = engine({.sequences_max = 4, .queue_max = 1});
  std::vector<RequestId> ids;
  for (std::uint32_t i = 0; i < 5; ++i) {  // four places and one to wait
    GenerateRequest r = request(tokens(10, i), 2);
    ids.push_back(r.id);
    EXPECT_TRUE(e->generate(std::move(r)).has_value()) << i;
  }
  for (const RequestId id : ids) EXPECT_EQ(sink_.wait(id).finish, FinishReason::kLength);
}

/// Holds the engine up at the first output until it is let go, and writes down who begins when.
class GatedSink final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    if (begun.empty()) {
      held_.set_value();
      gate_.get_future().wait();
    }
    for (const Output& output : outputs) {
      if (output.token && std::ranges::find(begun, output.request.value) == begun.end()) {
        begun.push_back(output.request.value);
      }
      if (output.finish && --left_ == 0) done_.set_value();
    }
  }
  void wait_until_held() { held_.get_future().wait(); }
  void let_go() { gate_.set_value(); }
  void wait() { done_.get_future().wait(); }
  void expect(int requests) { left_ = requests; }

  std::vector<std::uint64_t> begun;  // ids, in order; to be read after wait()

 private:
  std::promise<void> held_;
  std::promise<void> gate_;
  std::promise<void> done_;
  int left_ = 0;
};

TEST_F(LlamaEngineTest, R7_ATenantsQueueDoesNotHoldUpAnothers) {
  const auto e = engine({.sequences_max = 1});
  GatedSink sink;
  sink.expect(7);
  std::vector<std::uint64_t> ids;
  const auto ask = [&](std::uint64_t tenant, std::int32_t priority) {
    GenerateRequest r = request(tokens(100, static_cast<std::uint32_t>(ids.size())), 5);
    r.sink = &sink;
    r.tenant = tenant;
    r.priority = priority;
    ids.push_back(r.id.value);
    ASSERT_TRUE(e->generate(std::move(r)).has_value());
  };
  ask(1, 0);
  sink.wait_until_held();
  for (int i = 0; i < 3; ++i) ask(1, 0);
  ask(2, 0);
  ask(2, 0);
  ask(1, 1);
  sink.let_go();
  sink.wait();
  // Who is urgent; then who has had less.
  const std::vector<std::uint64_t> expected = {ids[0], ids[6], ids[4], ids[5],
                                               ids[1], ids[2], ids[3]};
  EXPECT_EQ(sink.begun, expected);
}

TEST_F(LlamaEngineTest, AGrammarThatIsCompleteEndsEvenIfEndsAreBanned) {
  const auto e = engine();
  GenerateRequest r = request(tokens(10, 1), 50);
  r.grammar.gbnf = "root ::= [a-z]";
  r.min_tokens = 20;
  EXPECT_EQ(run(*e, std::move(r)).finish, FinishReason::kStop);
}

TEST_F(LlamaEngineTest, GrammarsThatWouldHangAreRefused) {
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    const std::string next = "r" + std::to_string(i + 1);
    doubling += "r" + std::to_string(i) + " ::= " + next + " | " + next + "\n";
  }
  GenerateRequest r = request(tokens(10, 1), 50);
  r.grammar.gbnf = doubling + "r40 ::= \"a\"\n";
  EXPECT_EQ(engine()->generate(std::move(r)).error().code, Code::kInvalidArgument);
}

TEST_F(LlamaEngineTest, DeadlineAndDestructionEndEveryRequest) {
  auto e = engine({.sequences_max = 2});
  GenerateRequest late = request(tokens(10, 1), 900);
  late.deadline = Deadline(clock_.now());
  EXPECT_EQ(run(*e, std::move(late)).finish, FinishReason::kCancelled);
  std::vector<RequestId> ids;
  for (int i = 0; i < 6; ++i) {
    GenerateRequest r = request(tokens(10, 1), 900);
    ids.push_back(r.id);
    ASSERT_TRUE(e->generate(std::move(r)).has_value());
  }
  e.reset();
  for (const RequestId id : ids) EXPECT_EQ(sink_.wait(id).finish, FinishReason::kCancelled);
}

TEST_F(LlamaEngineTest, APassHasRoomForWhoDecodesAndForPromptsBeside) {
  const auto e = engine({.sequences_max = 3, .step_tokens = 64});
  std::vector<RequestId> ids;
  for (int i = 0; i < 3; ++i) {
    GenerateRequest r = request(tokens(10, 1), 900);
    ids.push_back(r.id);
    ASSERT_TRUE(e->generate(std::move(r)).has_value());
  }
  for (const RequestId id : ids) sink_.wait_for_token(id);
  EXPECT_EQ(e->load().pass_tokens_max, 64U + 3U);
  for (const RequestId id : ids) e->abort(id, CancelReason::kClientGone);
}

TEST_F(LlamaEngineTest, C3_CancelsAtRandomMomentsLeaveNothingBehind) {
  constexpr int kCancels = 2000;
  constexpr std::uint64_t kBlockBytes = 16 * 2 * 2 * 32 * 2;
  const auto e = engine(
      {.sequences_max = 4, .block_tokens = 16, .reuse_bytes = 100 * kBlockBytes, .queue_max = 32});
  std::mt19937 random(8);
  std::vector<RequestId> ids;
  for (int i = 0; i < kCancels; ++i) {
    const GenerateRequest r = request(tokens(1 + random() % 60, random() % 9), 1 + random() % 12);
    while (!e->generate(r)) std::this_thread::yield();  // as many wait as may
    ids.push_back(r.id);
    const RequestId id = ids[ids.size() - 1 - random() % std::min<std::size_t>(ids.size(), 20)];
    if (random() % 3 == 0) sink_.wait_for_token(id);
    e->abort(id, CancelReason::kClientGone);
  }
  std::size_t cancelled = 0;
  for (const RequestId id : ids) {
    cancelled += sink_.wait(id).finish == FinishReason::kCancelled ? 1 : 0;
  }
  EXPECT_GT(cancelled, ids.size() / 4);
  EXPECT_EQ(sink_.finished(), ids.size());
  EXPECT_EQ(run(*e, request(tokens(10, 1), 3)).tokens.size(), 3u);  // reported before it is told
  LoadReport load = e->load();
  EXPECT_EQ(load.running, 0u);
  EXPECT_EQ(load.waiting, 0u);
  EXPECT_EQ(load.kv_blocks_active, 0u);
  EXPECT_EQ(load.sequence_errors, 0u);
  EXPECT_GT(load.kv_blocks_used, 0u);

  ASSERT_TRUE(e->clear_cache().has_value());  // leaves what is pinned
  run(*e, request(tokens(10, 1), 3));
  EXPECT_EQ(e->load().kv_blocks_used, 0u);
  for (std::uint32_t i = 0; i < 10; ++i) run(*e, request(tokens(16 * 11, 100 + i), 1));
  load = e->load();
  EXPECT_EQ(load.kv_blocks_used, 100u);  // so each slot is somebody's or free
  EXPECT_EQ(load.kv_blocks_max, 100u);
  for (int i = 0; i < 4; ++i) {
    const GenerateRequest r = request(tokens(10, 1), 900);
    ASSERT_TRUE(e->generate(r).has_value());
    sink_.wait_for_token(r.id);
  }
  EXPECT_EQ(e->load().running, 4u);
}

TEST_F(LlamaEngineTest, SamplingOptionsBind) {
  const auto e = engine();
  const std::vector<Token> prompt = tokens(20, 3);
  GenerateRequest seeded = request(prompt, 20);
  seeded.sampling.temperature = 1.5F;
  seeded.sampling.seed = 7;
  GenerateRequest again = seeded;
  again.id = RequestId{++last_id_};
  GenerateRequest other = seeded;
  other.id = RequestId{++last_id_};
  other.sampling.seed = 8;
  const Answer a = run(*e, std::move(seeded));
  EXPECT_EQ(run(*e, std::move(again)).tokens, a.tokens);
  EXPECT_NE(run(*e, std::move(other)).tokens, a.tokens);

  GenerateRequest biased = request(prompt, 5);
  biased.sampling.logit_bias.emplace_back(42, 100.0F);
  for (const Token t : run(*e, std::move(biased)).tokens) EXPECT_EQ(t, 42);

  GenerateRequest bound = request(prompt, 20);
  bound.grammar.gbnf = "root ::= \"ab\" root | \"c\"";
  bound.ignore_eos = false;
  std::string text;
  for (const Token t : run(*e, std::move(bound)).tokens) text += static_cast<char>(t);
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) EXPECT_EQ(text.substr(i, 2), "ab");

  GenerateRequest probing = request(prompt, 3);
  probing.top_logprobs = 5;
  const Answer probed = run(*e, std::move(probing));
  for (const float p : probed.logprobs) {
    EXPECT_LE(p, 0.0F);
    EXPECT_GT(p, -20.0F);
  }
  const Answer plain = run(*e, request(prompt, 3));
  EXPECT_EQ(probed.tokens, plain.tokens);
  GenerateRequest stopped = request(prompt, 20);
  stopped.stop_token_ids = {plain.tokens[1]};
  const Answer s = run(*e, std::move(stopped));
  EXPECT_EQ(s.finish, FinishReason::kStop);
  EXPECT_LE(s.tokens.size(), 1u);
}

}  // namespace
}  // namespace penstock::engine
