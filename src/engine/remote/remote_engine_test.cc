#include "engine/remote/remote_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <tuple>

#include "base/rng.h"
#include "engine/announced_reader_for_test.h"
#include "engine/kv_event_log.h"
#include "engine/remote/engine_server.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/openengine.grpc.pb.h"
#include "engine/remote/sanitizer_for_test.h"
#include "engine/remote/until_for_test.h"
#include "engine/simulated/answer.h"
#include "engine/simulated/simulated_engine.h"
#include "engine/sink_for_test.h"

namespace penstock::engine {
namespace {

namespace oe = ::openengine::v1;
using simulated::whole_answer;

SimulatedOptions fast() {
  SimulatedOptions options;
  options.worker.speedup = SimulatedOptions::kSpeedupMax;
  options.worker.block_tokens = 16;
  for (Token t = 10; t < 60; ++t) options.vocabulary.push_back(t);
  options.embedding_size = 8;
  return options;
}

/// A worker whose passes never end within a test: what it runs stays running.
SimulatedOptions frozen() {
  SimulatedOptions options = fast();
  options.worker.speedup = 1e-9;
  return options;
}

/// A worker that gives a token at a time, and takes far longer over an answer than a test has.
SimulatedOptions slow() {
  SimulatedOptions options = fast();
  options.worker.speedup = 10;
  return options;
}

GenerateRequest request(std::uint64_t id, OutputSink& sink, std::uint32_t max_tokens,
                        std::size_t prompt = 40) {
  std::vector<Token> tokens(prompt);
  for (std::size_t i = 0; i < prompt; ++i) tokens[i] = static_cast<Token>((id * 7 + i) % 50);
  return {.id = {id}, .sink = &sink, .prompt = std::move(tokens), .max_tokens = max_tokens};
}

class RemoteEngineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
  }
  void serve(const SimulatedOptions& options, const std::string& instance = "first",
             std::uint16_t port = 0) {
    simulated_ = options;
    engine_ = make_simulated_engine(options, clock_);
    listen(instance, port);
  }
  void listen(const std::string& instance, std::uint16_t port) {
    auto server = EngineServer::start(
        {.address = "127.0.0.1:" + std::to_string(port), .instance = instance, .secret = secret_},
        *engine_, clock_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  std::unique_ptr<RemoteEngine> connect_as(const std::string& instance, const std::string& secret) {
    return RemoteEngine::connect({.address = "127.0.0.1:" + std::to_string(server_->port()),
                                  .instance = instance,
                                  .secret = secret,
                                  .info = engine_->info(),
                                  .reconnect_max = std::chrono::milliseconds(100)},
                                 clock_);
  }
  void connect() {
    remote_ = connect_as("first", secret_);
    ASSERT_TRUE(until([&] { return remote_->connected(); }));
  }
  void start(const SimulatedOptions& options) {
    serve(options);
    connect();
  }

  SteadyClock clock_;
  TestSink sink_;           // outlives the engines
  AnnouncedReader reader_;  // as well
  SimulatedOptions simulated_;
  std::string secret_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<EngineServer> server_;
  std::unique_ptr<RemoteEngine> remote_;
};

TEST_F(RemoteEngineTest, AnswersAsTheEngineItself) {
  start(fast());
  for (std::uint64_t id = 1; id <= 20; ++id) {
    const GenerateRequest r = request(id, sink_, static_cast<std::uint32_t>(id * 10));
    ASSERT_TRUE(remote_->generate(r));
    const Output end = sink_.wait_for_end(id);
    EXPECT_EQ(end.finish, FinishReason::kLength);
    EXPECT_EQ(sink_.tokens(id), whole_answer(simulated_, r).tokens);
    EXPECT_EQ(end.usage.prompt_tokens, 40U);
    EXPECT_EQ(end.usage.completion_tokens, id * 10);
  }
}

TEST_F(RemoteEngineTest, WhatItSaysAnewIsAnnounced) {
  serve(fast());
  remote_ = connect_as("first", secret_);
  reader_.follow(*remote_);
  ASSERT_TRUE(until([&] { return remote_->connected(); }));
  EXPECT_TRUE(reader_.is_up_to_date());
  EXPECT_TRUE(reader_.connected());
  for (std::uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(remote_->generate(request(id, sink_, 5)));
    EXPECT_TRUE(reader_.is_up_to_date());
    sink_.wait(id);
    const std::uint64_t events = engine_->kv_events()->last_sequence();
    EXPECT_TRUE(until([&] {
      return remote_->load().completion_tokens == 5 * id &&
             remote_->kv_events()->last_sequence() == events;
    }));
    EXPECT_TRUE(reader_.is_up_to_date());
    EXPECT_EQ(reader_.load().accepted, id);
  }
  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  EXPECT_TRUE(reader_.is_up_to_date());
  EXPECT_FALSE(reader_.connected());
}

TEST_F(RemoteEngineTest, WhatEndedIsAnnouncedThoughTheWorkerSaysNothing) {
  start(frozen());
  reader_.follow(*remote_);
  for (std::uint64_t id = 1; id <= 4; ++id) {
    ASSERT_TRUE(remote_->generate(request(id, sink_, 5)));
    EXPECT_TRUE(reader_.is_up_to_date());
    remote_->abort({id}, CancelReason::kClientGone);
    sink_.wait(id);
    EXPECT_TRUE(reader_.is_up_to_date());
    EXPECT_EQ(reader_.load().accepted, id);
  }
}

TEST_F(RemoteEngineTest, CachedTokensAndSaltsArriveAsTheyAre) {
  start(fast());
  const auto cached = [&](std::uint64_t id, const std::string& salt) {
    GenerateRequest r = request(id, sink_, 2);
    r.prompt.assign(100, 7);
    r.cache_salt = salt;
    EXPECT_TRUE(remote_->generate(r));
    return sink_.wait_for_end(id).usage.cached_tokens;
  };
  EXPECT_EQ(cached(1, ""), 0U);
  EXPECT_EQ(cached(2, ""), 96U);
  EXPECT_EQ(cached(3, "tenant"), 0U);
  EXPECT_EQ(cached(4, "tenant"), 96U);
}

TEST_F(RemoteEngineTest, EmbedsAsTheEngineItself) {
  start(fast());
  std::promise<std::vector<float>> here;
  std::promise<std::vector<float>> there;
  const auto into = [](auto& promise) {
    return [&promise](Result<std::vector<float>> v) { promise.set_value(v.value()); };
  };
  ASSERT_TRUE(engine_->embed({.tokens = {1, 2, 3}}, into(here)));
  ASSERT_TRUE(remote_->embed({.tokens = {1, 2, 3}}, into(there)));
  EXPECT_EQ(there.get_future().get(), here.get_future().get());

  std::promise<Code> refused;
  ASSERT_TRUE(remote_->embed(
      {.tokens = {}}, [&](Result<std::vector<float>> v) { refused.set_value(v.error().code); }));
  EXPECT_EQ(refused.get_future().get(), Code::kInvalidArgument);
}

TEST_F(RemoteEngineTest, WhatTheWorkerRefusesComesWithItsReason) {
  SimulatedOptions options = frozen();
  options.context_tokens_max = 100;
  options.worker.sequences_max = 1;
  options.queue_max = 2;
  start(options);
  ASSERT_TRUE(remote_->generate(request(1, sink_, 1, 100)));
  Output end = sink_.wait_for_end(1);
  EXPECT_EQ(end.finish, FinishReason::kError);
  EXPECT_EQ(end.error_code, Code::kInvalidArgument);
  EXPECT_THAT(end.error, ::testing::HasSubstr("100 tokens"));

  // As many as fit, by another way in; then one more by this one.
  TestSink other;
  for (std::uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(engine_->generate(request(id, other, 1)));
  }
  ASSERT_TRUE(remote_->generate(request(2, sink_, 1)));
  end = sink_.wait_for_end(2);
  EXPECT_EQ(end.error_code, Code::kOverloaded);
  remote_.reset();
  server_.reset();
  engine_.reset();  // ends what waits for `other`
}

TEST_F(RemoteEngineTest, NoMoreIsGivenThanTheWorkerTakes) {
  SimulatedOptions options = frozen();
  options.worker.sequences_max = 2;
  options.queue_max = 1;
  start(options);
  for (std::uint64_t id = 1; id <= 3; ++id) {
    ASSERT_TRUE(remote_->generate(request(id, sink_, 1)));
  }
  EXPECT_EQ(remote_->generate(request(4, sink_, 1)).error().code, Code::kOverloaded);
  EXPECT_EQ(remote_->generate(request(3, sink_, 1)).error().code, Code::kOverloaded);
}

TEST_F(RemoteEngineTest, AnAbortDoesNotWaitForTheWorker) {
  start(frozen());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 10)));
  ASSERT_TRUE(until([&] { return server_->live() == 1; }));
  remote_->abort({1}, CancelReason::kClientGone);
  remote_->abort({1}, CancelReason::kClientGone);
  remote_->abort({99}, CancelReason::kClientGone);
  EXPECT_EQ(sink_.wait(1), FinishReason::kCancelled);
  EXPECT_TRUE(until([&] { return server_->live() == 0; }));
}

TEST_F(RemoteEngineTest, ADeadlineEndsARequestThatHangs) {
  start(frozen());
  GenerateRequest r = request(1, sink_, 10);
  r.deadline = Deadline(clock_.now() + std::chrono::milliseconds(20));
  ASSERT_TRUE(remote_->generate(r));
  EXPECT_EQ(sink_.wait(1), FinishReason::kCancelled);
  EXPECT_TRUE(until([&] { return server_->live() == 0; }));
}

TEST_F(RemoteEngineTest, AWorkerThatIsLostEndsItsRequestsWithAnError) {
  start(slow());
  const std::uint16_t port = server_->port();
  ASSERT_TRUE(remote_->generate(request(1, sink_, 100'000)));
  sink_.wait_for_tokens(1, 3);
  server_.reset();
  const Output end = sink_.wait_for_end(1);
  EXPECT_NE(end.finish, FinishReason::kLength);
  EXPECT_TRUE(until([&] { return !remote_->connected(); }));
  EXPECT_EQ(remote_->generate(request(2, sink_, 1)).error().code, Code::kUnavailable);

  serve(fast(), "first", port);  // the network was gone, the worker was not
  ASSERT_TRUE(until([&] { return remote_->connected(); }));
  const GenerateRequest r = request(3, sink_, 5);
  ASSERT_TRUE(remote_->generate(r));
  EXPECT_EQ(sink_.wait(3), FinishReason::kLength);
  EXPECT_EQ(sink_.tokens(3), whole_answer(simulated_, r).tokens);
}

TEST_F(RemoteEngineTest, AnotherLifeAtTheSameAddressIsNotIt) {
  start(fast());
  const std::uint16_t port = server_->port();
  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  serve(fast(), "second", port);
  const auto other = connect_as("second", "");
  ASSERT_TRUE(until([&] { return other->connected(); }));
  std::promise<bool> well;
  remote_->probe([&](bool w) { well.set_value(w); });
  EXPECT_FALSE(well.get_future().get());
  EXPECT_FALSE(remote_->connected());
}

TEST_F(RemoteEngineTest, ASecretIsAskedFor) {
  secret_ = "open sesame";
  start(fast());
  const auto wrong = connect_as("first", "open barley");
  const auto none = connect_as("first", "");
  for (RemoteEngine* refused : {wrong.get(), none.get()}) {
    std::promise<bool> well;
    refused->probe([&](bool w) { well.set_value(w); });
    EXPECT_FALSE(well.get_future().get());
    EXPECT_FALSE(refused->connected());
  }
  std::promise<bool> well;
  remote_->probe([&](bool w) { well.set_value(w); });
  EXPECT_TRUE(well.get_future().get());
}

TEST_F(RemoteEngineTest, OfAStrangerNoMessageIsTakenIn) {
  secret_ = "open sesame";
  serve(fast());
  const auto stub =
      oe::Inference::NewStub(rpc::open_channel("127.0.0.1:" + std::to_string(server_->port())));
  oe::GenerateRequest large;  // looked at, it would be refused as too large
  large.set_prompt(std::string(rpc::kMessageBytesMax + 1, 'x'));
  const auto status = [&](const std::string& secret) {
    grpc::ClientContext context;
    rpc::add_headers(context, rpc::bearer_of(secret), {});
    const auto call = stub->Generate(&context, large);
    oe::GenerateResponse response;
    EXPECT_FALSE(call->Read(&response));
    return call->Finish().error_code();
  };
  for (const char* secret : {"", "open barley"}) {
    EXPECT_EQ(status(secret), grpc::StatusCode::UNAUTHENTICATED) << secret;
  }
  EXPECT_EQ(status(secret_), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(RemoteEngineTest, DrainingRefusesWhatIsNewAndFinishesTheRest) {
  start(slow());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 20)));
  sink_.wait_for_tokens(1, 1);
  server_->drain();
  ASSERT_TRUE(remote_->generate(request(2, sink_, 20)));
  EXPECT_EQ(sink_.wait_for_end(2).error_code, Code::kUnavailable);
  EXPECT_EQ(sink_.wait(1), FinishReason::kLength);
}

TEST_F(RemoteEngineTest, WhatASlowReaderLeavesGoesOutTogether) {
  constexpr std::uint32_t kTokens = 50'000;
  start(fast());
  const auto stub =
      oe::Inference::NewStub(rpc::open_channel("127.0.0.1:" + std::to_string(server_->port())));
  oe::GenerateRequest wanted;
  wanted.set_request_id("slow");
  wanted.mutable_token_ids()->add_ids(1);
  wanted.mutable_stopping()->set_max_tokens(kTokens);
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, wanted);
  ASSERT_TRUE(until([&] { return engine_->load().completion_tokens == kTokens; }));

  std::uint32_t tokens = 0;
  std::uint32_t messages = 0;
  bool finished = false;
  for (oe::GenerateResponse response; reader->Read(&response); ++messages) {
    EXPECT_FALSE(finished);
    tokens += static_cast<std::uint32_t>(response.token().tokens_size());
    finished = response.has_finished();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(finished);
  EXPECT_EQ(tokens, kTokens);
  EXPECT_LT(messages, kTokens / 10);
}

TEST_F(RemoteEngineTest, RandomCancelsLeaveNothingBehind) {
  SimulatedOptions options = fast();
  options.worker.speedup = 1000;
  start(options);
  constexpr std::uint64_t kRequests = 500;
  Rng rng(7);
  for (std::uint64_t id = 1; id <= kRequests; ++id) {
    ASSERT_TRUE(remote_->generate(request(id, sink_, 1 + rng.below(200))));
    if (rng.below(4) == 0) sink_.wait_for_tokens(id, 1);
    for (int i = 0; i < 3; ++i) {
      remote_->abort({1 + rng.below(static_cast<std::uint32_t>(id))}, CancelReason::kClientGone);
    }
  }
  for (std::uint64_t id = 1; id <= kRequests; ++id) {
    remote_->abort({id}, CancelReason::kClientGone);
    sink_.wait(id);
  }
  EXPECT_EQ(sink_.finished(), kRequests);
  EXPECT_TRUE(until([&] { return server_->live() == 0; }));
  EXPECT_TRUE(until([&] {
    const LoadReport load = engine_->load();
    return load.running + load.waiting == 0 && load.kv_blocks_active == 0;
  }));
  // Whatever the worker has heard of, and whatever not: none counts as on its way.
  EXPECT_EQ(remote_->load().accepted, kRequests);
}

TEST_F(RemoteEngineTest, TheLoadIsWhatTheWorkerSays) {
  start(slow());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 100'000, 100)));
  sink_.wait_for_tokens(1, 2);
  EXPECT_TRUE(until([&] { return remote_->load().running == 1; }));
  const LoadReport here = engine_->load();
  const LoadReport there = remote_->load();
  EXPECT_EQ(there.accepted, 1U);
  EXPECT_EQ(there.prompt_tokens, here.prompt_tokens);
  EXPECT_EQ(there.kv_blocks_active_max, here.kv_blocks_active_max);
  EXPECT_EQ(there.pass_tokens_max, here.pass_tokens_max);
  EXPECT_EQ(there.last_prefill_pass, here.last_prefill_pass);
  EXPECT_LT(there.generation, remote_->load().generation);
  remote_->abort({1}, CancelReason::kClientGone);
  sink_.wait(1);
  EXPECT_TRUE(until([&] { return remote_->load().running == 0; }));
}

/// Without the blocks' tokens, which nobody needs of a worker elsewhere.
std::vector<std::tuple<kv::BlockHash, kv::BlockHash, std::uint64_t>> held(const Engine& engine,
                                                                          std::uint64_t& sequence) {
  std::vector<std::tuple<kv::BlockHash, kv::BlockHash, std::uint64_t>> all;
  for (const kv::Event& e : engine.kv_events()->snapshot(sequence)) {
    all.emplace_back(e.hash, e.parent, e.local);
  }
  std::ranges::sort(all);
  return all;
}

void expect_same_events(const Engine& here, const Engine& there) {
  ASSERT_TRUE(until(
      [&] { return there.kv_events()->last_sequence() == here.kv_events()->last_sequence(); }));
  std::uint64_t sequence_here = 0;
  std::uint64_t sequence_there = 0;
  EXPECT_EQ(held(there, sequence_there), held(here, sequence_here));
  EXPECT_EQ(sequence_there, sequence_here);
}

TEST_F(RemoteEngineTest, KvEventsAreFollowedAlsoAcrossALoss) {
  SimulatedOptions options = fast();
  options.worker.kv_blocks = 64;  // so that blocks are evicted as well
  options.kv_events_max = 32;
  start(options);
  std::uint64_t id = 0;
  const auto compute = [&](Engine& engine, int requests) {
    for (int i = 0; i < requests; ++i) {
      ASSERT_TRUE(engine.generate(request(++id, sink_, 4, 100)));
      sink_.wait(id);
    }
  };
  compute(*remote_, 30);
  expect_same_events(*engine_, *remote_);

  const std::uint16_t port = server_->port();
  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  compute(*engine_, 1);  // a few events that are still kept when it is back
  listen("first", port);
  expect_same_events(*engine_, *remote_);

  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  compute(*engine_, 30);  // more than are kept: all that is held
  listen("first", port);
  expect_same_events(*engine_, *remote_);
  ASSERT_TRUE(until([&] { return remote_->connected(); }));  // another stream tells of events
  compute(*remote_, 5);
  expect_same_events(*engine_, *remote_);
}

TEST_F(RemoteEngineTest, AClearedCacheIsOneEventHereAsWell) {
  start(fast());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 1, 100)));
  sink_.wait(1);
  expect_same_events(*engine_, *remote_);
  const std::uint64_t before = remote_->kv_events()->last_sequence();
  ASSERT_TRUE(remote_->clear_cache());
  ASSERT_TRUE(until([&] { return remote_->kv_events()->last_sequence() > before; }));
  std::vector<kv::Event> events;
  ASSERT_TRUE(remote_->kv_events()->read(before + 1, 100, events));
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0].kind, kv::Event::Kind::kCleared);
  expect_same_events(*engine_, *remote_);
  server_.reset();
  ASSERT_TRUE(until([&] { return !remote_->connected(); }));
  EXPECT_EQ(remote_->clear_cache().error().code, Code::kUnavailable);
}

TEST_F(RemoteEngineTest, AListOfAllBlocksMayTakeSeveralMessages) {
  SimulatedOptions options = fast();
  options.kv_events_max = 8;
  serve(options);
  ASSERT_TRUE(engine_->generate(request(1, sink_, 1, 16 * 1000)));
  sink_.wait(1);
  connect();
  expect_same_events(*engine_, *remote_);
  std::uint64_t sequence = 0;
  EXPECT_EQ(held(*remote_, sequence).size(), 1000U);
}

TEST_F(RemoteEngineTest, OfAWorkerThatTellsOfMoreBlocksThanItHasOrFitHereNoneIsKept) {
  for (const int round : {0, 1, 2, 3}) {
    const bool at_once = round % 2 == 0;  // as a list of all, or one after the other
    const bool lies = round < 2;
    server_.reset();
    const std::uint64_t id = std::uint64_t{10} * static_cast<unsigned>(round);
    SimulatedOptions options = fast();
    if (at_once) options.kv_events_max = 1;
    serve(options);
    EngineInfo card = engine_->info();
    if (lies) card.kv_blocks_max = 10;
    const auto compute = [&](std::uint64_t of) {
      ASSERT_TRUE(engine_->generate(request(of, sink_, 1, 16 * 100)));
      sink_.wait(of);
    };
    if (at_once) compute(id + 1);
    const auto remote = RemoteEngine::connect(
        {.address = "127.0.0.1:" + std::to_string(server_->port()),
         .info = card,
         .kv_picture_bytes_max = (lies ? 1000 : 10) * KvEventLog::kHeldBlockBytes},
        clock_);
    if (!at_once) {
      ASSERT_TRUE(until([&] { return remote->connected(); }));
      compute(id + 2);
    }
    std::uint64_t sequence = 0;
    ASSERT_TRUE(until([&] {
      return remote->kv_events()->last_sequence() > 0 && held(*remote, sequence).empty();
    }));
    compute(id + 3);
    ASSERT_TRUE(remote->generate(request(id + 4, sink_, 3)));  // it is used all the same
    EXPECT_EQ(sink_.wait(id + 4), FinishReason::kLength);
    EXPECT_TRUE(held(*remote, sequence).empty());
  }
}

TEST_F(RemoteEngineTest, BlocksOfAWorkerElsewhereKeepNoTokens) {
  start(fast());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 1, 160)));
  sink_.wait(1);
  expect_same_events(*engine_, *remote_);
  std::uint64_t sequence = 0;
  const std::vector<kv::Event> events = remote_->kv_events()->snapshot(sequence);
  EXPECT_FALSE(events.empty());
  for (const kv::Event& event : events) EXPECT_TRUE(event.tokens.empty());
}

TEST_F(RemoteEngineTest, AnEmbeddingIsWorkUntilItIsAnsweredAndEndsByItsDeadline) {
  start(frozen());
  ASSERT_TRUE(remote_->generate(request(1, sink_, 10)));
  ASSERT_TRUE(until([&] { return engine_->load().running == 1; }));  // the pass never ends
  std::promise<Code> late;
  ASSERT_TRUE(
      remote_->embed({.tokens = {1}, .deadline = Deadline(clock_.now() + std::chrono::seconds(5))},
                     [&](Result<std::vector<float>> v) { late.set_value(v.error().code); }));
  EXPECT_TRUE(until([&] { return server_->live() == 2; }));
  EXPECT_EQ(late.get_future().get(), Code::kDeadlineExceeded);
  EXPECT_TRUE(until([&] { return server_->live() == 1; }));
}

TEST_F(RemoteEngineTest, EndsWhileRequestsRunAndWhileNobodyIsThere) {
  start(frozen());
  for (std::uint64_t id = 1; id <= 10; ++id) {
    ASSERT_TRUE(remote_->generate(request(id, sink_, 10)));
  }
  remote_.reset();
  EXPECT_EQ(sink_.finished(), 10U);
  for (std::uint64_t id = 1; id <= 10; ++id) EXPECT_EQ(sink_.wait(id), FinishReason::kCancelled);
  server_.reset();  // the engine still has them
  const auto nobody =
      RemoteEngine::connect({.address = "127.0.0.1:1", .info = engine_->info()}, clock_);
  EXPECT_FALSE(nobody->connected());
}

}  // namespace
}  // namespace penstock::engine
