#include "serve/remote_workers.h"

#include <gtest/gtest.h>

#include "engine/remote/engine_server.h"
#include "engine/remote/sanitizer_for_test.h"
#include "engine/remote/until_for_test.h"
#include "engine/simulated/simulated_engine.h"
#include "serve/keeper.h"

namespace penstock::serve {
namespace {

using engine::until;

class RemoteWorkersTest : public testing::Test {
 protected:
  void SetUp() override {
    if (engine::kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
  }
  /// A worker and a front end with it, which asks for a canary after a moment without a token.
  void start(double speedup) {
    engine::SimulatedOptions options;
    options.worker.speedup = speedup;
    options.vocabulary = {1, 2, 3};
    engine_ = make_simulated_engine(options, clock_);
    auto server = engine::EngineServer::start({.instance = "life"}, *engine_, clock_);
    ASSERT_TRUE(server.has_value());
    server_ = std::move(*server);
    auto workers =
        RemoteWorkers::start({.door = {.address = "127.0.0.1:0",
                                       .heartbeat = std::chrono::hours(1),  // never missed here
                                       .lease = std::chrono::hours(10)},
                              .canary_after = std::chrono::milliseconds(10),
                              .canary_timeout = std::chrono::milliseconds(50)},
                             clock_);
    ASSERT_TRUE(workers.has_value());
    workers_ = std::move(*workers);
    dispatcher_ = std::make_unique<Dispatcher>(
        engine_->info(), std::vector<std::unique_ptr<engine::Engine>>{},
        DispatchOptions{.joins_max = 4, .health = health_options(workers_->options())}, clock_);
  }
  void serve() {
    keeper_ = std::make_unique<Keeper>(*dispatcher_);
    workers_->serve(*dispatcher_);
  }
  Result<void> join() {
    return workers_->join({.instance = "life",
                           .address = "127.0.0.1:" + std::to_string(server_->port()),
                           .info = engine_->info(),
                           .tells_kv_events = true});
  }
  fleet::WorkerState state() {
    const DispatcherView view = dispatcher_->view();
    return view.workers.empty() ? fleet::WorkerState::kGone : view.workers[0].state;
  }

  SteadyClock clock_;
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<engine::EngineServer> server_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<Keeper> keeper_;
  std::unique_ptr<RemoteWorkers> workers_;  // before the others end
};

TEST_F(RemoteWorkersTest, H6_AWorkerThatGivesNoTokensIsFoundThoughItsProcessAnswers) {
  start(1e-9);
  serve();
  ASSERT_TRUE(join());
  EXPECT_TRUE(until([&] { return state() == fleet::WorkerState::kReady; }));
  EXPECT_TRUE(until([&] { return state() == fleet::WorkerState::kSuspect; }));
  EXPECT_TRUE(until([&] { return server_->live() == 0; }));  // the canary was taken back
  ASSERT_TRUE(join());                                       // a heartbeat
  EXPECT_EQ(state(), fleet::WorkerState::kSuspect);
}

TEST_F(RemoteWorkersTest, AWellWorkersCanariesAreAllThatItSees) {
  start(engine::SimulatedOptions::kSpeedupMax);
  serve();
  ASSERT_TRUE(join());
  EXPECT_TRUE(until([&] { return engine_->load().completion_tokens >= 3; }));
  EXPECT_EQ(state(), fleet::WorkerState::kReady);
  workers_->stop_serving();
  keeper_.reset();
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
}

TEST_F(RemoteWorkersTest, TheFirstCardThatFitsIsWaitedFor) {
  start(engine::SimulatedOptions::kSpeedupMax);
  EXPECT_EQ(join().error().code, Code::kUnavailable);  // nobody says yet what would fit
  Result<engine::EngineInfo> card = engine::EngineInfo{};
  std::jthread waiter([&] {
    card = workers_->wait_for_card(engine_->info().model, engine_->info().vocabulary_size,
                                   [] { return true; });
  });
  EXPECT_TRUE(until([&] { return join().error().message != "the front end is starting"; }));
  waiter.join();
  ASSERT_TRUE(card.has_value());
  EXPECT_EQ(card->block_tokens, engine_->info().block_tokens);
}

TEST_F(RemoteWorkersTest, NobodyIsWaitedForLongerThanWanted) {
  start(engine::SimulatedOptions::kSpeedupMax);
  EXPECT_EQ(workers_->wait_for_card("m", 1, [] { return false; }).error().code, Code::kUnavailable);
  EXPECT_EQ(join().error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace penstock::serve
