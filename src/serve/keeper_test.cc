#include "serve/keeper.h"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "engine/remote/until_for_test.h"

namespace penstock::serve {
namespace {

using engine::until;

/// A worker whose requests fail, do not end, or are answered at once.
class MoodyEngine final : public engine::Engine {
 public:
  enum class Mood { kWell, kFails, kHangs };

  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(engine::GenerateRequest request) override {
    ++asked;
    engine::Output end{.request = request.id, .finish = engine::FinishReason::kLength};
    switch (mood.load()) {
      case Mood::kWell: end.token = 1; break;
      case Mood::kFails: end.finish = engine::FinishReason::kError; break;
      case Mood::kHangs: {
        const std::lock_guard lock(mutex_);
        held_.emplace_back(request.sink, request.id);
        return {};
      }
    }
    request.sink->deliver({&end, 1});
    return {};
  }
  void abort(RequestId id, engine::CancelReason) override {
    const std::lock_guard lock(mutex_);
    for (auto& [sink, held] : held_) {
      if (held != id) continue;
      engine::Output end{.request = id, .finish = engine::FinishReason::kCancelled};
      std::exchange(sink, nullptr)->deliver({&end, 1});
      held = RequestId{};
    }
  }
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override { return {}; }
  [[nodiscard]] engine::LoadReport load() const override { return {.generation = 1}; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return nullptr; }

  std::atomic<Mood> mood = Mood::kWell;
  std::atomic<int> asked = 0;

 private:
  const engine::EngineInfo info_{.model = "moody", .block_tokens = 16, .sequences_max = 4};
  std::mutex mutex_;
  std::vector<std::pair<engine::OutputSink*, RequestId>> held_;
};

class KeeperTest : public testing::Test {
 protected:
  KeeperTest() {
    std::vector<std::unique_ptr<engine::Engine>> engines;
    engines.push_back(std::make_unique<MoodyEngine>());
    engine_ = static_cast<MoodyEngine*>(engines.front().get());
    const engine::EngineInfo info = engine_->info();
    const fleet::WorkerHealth::Options health{.canary_timeout = std::chrono::milliseconds(1),
                                              .pause_first = std::chrono::milliseconds(1),
                                              .pause_max = std::chrono::milliseconds(1)};
    dispatcher_ = std::make_unique<Dispatcher>(info, std::move(engines),
                                               DispatchOptions{.health = health}, clock_);
    keeper_ = std::make_unique<Keeper>(*dispatcher_);
  }
  void become_suspect() {
    const std::vector<Token> prompt(10);
    std::vector<std::uint64_t> locals;
    for (int i = 0; i < 3; ++i) {
      Result<Assignment> placed = dispatcher_->place({.prompt = prompt, .locals = locals});
      placed->failed(FaultClass::kWorker);
    }
  }
  fleet::WorkerState state() { return dispatcher_->view().workers.at(0).state; }

  SteadyClock clock_;
  std::unique_ptr<Dispatcher> dispatcher_;
  MoodyEngine* engine_ = nullptr;
  std::unique_ptr<Keeper> keeper_;
};

TEST_F(KeeperTest, AFailingWorkerIsAskedForATokenUntilItGivesOne) {
  engine_->mood = MoodyEngine::Mood::kFails;
  become_suspect();
  EXPECT_TRUE(until([&] { return engine_->asked >= 3; }));
  EXPECT_EQ(state(), fleet::WorkerState::kSuspect);
  engine_->mood = MoodyEngine::Mood::kWell;
  EXPECT_TRUE(until([&] { return state() == fleet::WorkerState::kReady; }));
  const int asked = engine_->asked;
  keeper_.reset();
  EXPECT_EQ(engine_->asked, asked);  // a well one is left alone
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
}

TEST_F(KeeperTest, ACanaryThatHangsIsTakenBack) {
  engine_->mood = MoodyEngine::Mood::kHangs;
  become_suspect();
  EXPECT_TRUE(until([&] { return engine_->asked >= 2; }));
  EXPECT_EQ(state(), fleet::WorkerState::kSuspect);
  keeper_.reset();
  EXPECT_EQ(dispatcher_->in_flight(), 0U);
}

}  // namespace
}  // namespace penstock::serve
