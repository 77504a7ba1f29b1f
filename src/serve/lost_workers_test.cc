// Requests whose workers are lost before they have given a token.
#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "engine/remote/engine_server.h"
#include "engine/remote/membership.h"
#include "engine/remote/sanitizer_for_test.h"
#include "serve/internal/service_for_test.h"
#include "serve/remote_workers.h"

namespace penstock::serve {
namespace {

using engine::FinishReason;
using engine::GenerateRequest;
using engine::Output;

/// A request with which its worker stops working, for good; canaries are none of these.
enum class HangsWith { kNothing, kPrompt, kAnswer, kAnswerBegun };

/// What a test says of all workers, and sees of them.
struct Script {
  std::mutex mutex;
  HangsWith hangs_with = HangsWith::kNothing;                    // the next one
  std::set<std::string> hanging;                                 // who
  std::vector<std::pair<engine::OutputSink*, RequestId>> stuck;  // with them
  std::vector<std::pair<engine::OutputSink*, Output>> held;
  bool hold_prompts = false;       // they are not done until it says so
  std::uint32_t answers_lost = 0;  // of those asked for from now on
  Error lost_with{Code::kUnavailable, "it is about to end", "", 1};
  std::set<RequestId> kept;        // prompts
  std::vector<std::string> asked;  // in order: who, and with which KV
  std::vector<std::string> traces;
};

/// A worker that does what the script says, in no time.
class ScriptedEngine final : public engine::Engine {
 public:
  ScriptedEngine(std::string name, engine::EngineInfo info, Script& script)
      : name_(std::move(name)), info_(std::move(info)), script_(script) {}

  [[nodiscard]] const engine::EngineInfo& info() const override { return info_; }
  Result<void> generate(GenerateRequest request) override {
    Output end{.request = request.id, .finish = FinishReason::kLength};
    end.usage.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
    std::unique_lock lock(script_.mutex);
    if (hangs(request)) return {};
    script_.traces.push_back(request.traceparent);
    if (request.prefill_only) {
      script_.asked.push_back(name_);
      engine::KvTicket ticket{.source = 1, .at = {.tcp_port = 9}};
      ticket.blocks.resize(request.prompt.size() / info_.block_tokens);
      end.kv = std::make_shared<const engine::KvTicket>(std::move(ticket));
      script_.kept.insert(request.id);
      if (script_.hold_prompts) {
        script_.held.emplace_back(request.sink, std::move(end));
        return {};
      }
    } else {
      const char* kv = !request.fetch         ? ""
                       : script_.kept.empty() ? " with what is gone"
                                              : " with KV";
      script_.asked.push_back(name_ + kv);
      if (script_.answers_lost > 0) {
        --script_.answers_lost;
        return std::unexpected(script_.lost_with);
      }
      end.token = 'a';
    }
    lock.unlock();
    request.sink->deliver({&end, 1});
    return {};
  }
  void abort(RequestId id, engine::CancelReason) override {
    const std::lock_guard lock(script_.mutex);
    script_.kept.erase(id);
  }
  Result<void> embed(engine::EmbedRequest, engine::EmbedDone) override { return {}; }
  [[nodiscard]] engine::LoadReport load() const override { return {.generation = 1}; }
  [[nodiscard]] engine::TierState tier_state() const override {
    engine::TierState tiers;
    tiers.stats.emplace().asked = name_.size();
    return tiers;
  }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return nullptr; }

 private:
  /// Under the script's lock.
  bool hangs(const GenerateRequest& request) {
    const bool canary = request.prompt.size() == 1;
    const bool meant = request.prefill_only ? script_.hangs_with == HangsWith::kPrompt
                                            : script_.hangs_with >= HangsWith::kAnswer;
    if (!canary && meant) {
      script_.hanging.insert(name_);
      if (script_.hangs_with == HangsWith::kAnswerBegun) {
        Output token{.request = request.id, .token = 'a'};
        request.sink->deliver({&token, 1});
      }
      script_.hangs_with = HangsWith::kNothing;
    }
    if (!script_.hanging.contains(name_)) return false;
    script_.stuck.emplace_back(request.sink, request.id);
    return true;
  }

  const std::string name_;
  const engine::EngineInfo info_;
  Script& script_;
};

/// A front end without engines of its own. Its workers join in turn: prompt, answer, answer, whole;
/// the last one's KV is of no use to the others.
class LostWorkersTest : public ServiceTest {
 protected:
  void SetUp() override {
    if (engine::kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
    ServiceTest::SetUp();
    for (const auto role : {engine::Role::kDecode, engine::Role::kDecode}) join(role);
    info_.kv_compatibility_key = "another";
    join(engine::Role::kBoth);
    while (std::ranges::count(model_->dispatcher().view().workers, fleet::WorkerState::kReady,
                              &WorkerView::state) < 4) {
      std::this_thread::yield();
    }
  }
  void configure(ModelOptions& options) override {
    const auto file = text::ModelFile::open({.path = options.path, .weights = false});
    ASSERT_TRUE(file.has_value());
    info_ = {.model = (*file)->fingerprint(),
             .kv_compatibility_key = "one",
             .block_tokens = 16,
             .context_tokens_max = 1024,
             .sequences_max = 4,
             .queue_max = 4,
             .vocabulary_size = text::kTinyVocabulary,
             .hands_kv_over = true};
    auto remote = RemoteWorkers::start(
        {.door = {.address = "127.0.0.1:0", .heartbeat = std::chrono::milliseconds(500)},
         .canary_after = canary_after_,
         .canary_timeout = canary_after_},
        clock_);
    ASSERT_TRUE(remote.has_value());
    remote_ = std::move(*remote);
    options.workers = 0;
    options.remote = remote_.get();
    options.dispatch.policy = "round-robin";
    join(engine::Role::kPrefill);
  }
  void join(engine::Role role) {
    constexpr const char* kNames[] = {"prompt", "answer-1", "answer-2", "whole"};
    const std::string name = kNames[engines_.size()];
    engines_.push_back(std::make_unique<ScriptedEngine>(name, info_, script_));
    auto server = engine::EngineServer::start({.instance = name}, *engines_.back(), clock_);
    ASSERT_TRUE(server.has_value());
    servers_.push_back(std::move(*server));
    places_.push_back(
        engine::Joining::start({.front_end = fmt::format("127.0.0.1:{}", remote_->port()),
                                .instance = name,
                                .host = "127.0.0.1",
                                .port = servers_.back()->port(),
                                .info = info_,
                                .role = role}));
  }
  void TearDown() override {
    ServiceTest::TearDown();
    places_.clear();
    remote_.reset();
    for (auto& [sink, id] : script_.stuck) {
      Output end{.request = id, .finish = FinishReason::kCancelled};
      sink->deliver({&end, 1});
    }
    servers_.clear();
  }
  static std::string body(bool stream = false) {
    return fmt::format(R"({{"model":"tiny","prompt":"{}","max_tokens":1,"stream":{}}})",
                       std::string(100, 'x'), stream);
  }
  std::vector<std::string> asked() {
    const std::lock_guard lock(script_.mutex);
    return script_.asked;
  }

  Nanos canary_after_ = std::chrono::seconds(30);
  engine::EngineInfo info_;
  Script script_;
  std::vector<std::unique_ptr<ScriptedEngine>> engines_;
  std::vector<std::unique_ptr<engine::EngineServer>> servers_;
  std::unique_ptr<RemoteWorkers> remote_;
  std::vector<std::unique_ptr<engine::Joining>> places_;
};

TEST_F(LostWorkersTest, WhoAnswersInPlaceOfALostWorkerFindsThePromptsKvAsWell) {
  script_.answers_lost = 1;
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  testing::internal::CaptureStderr();
  ask("/v1/completions", body(), 200, "POST", {{"traceparent", trace}});
  EXPECT_THAT(
      testing::internal::GetCapturedStderr(),
      testing::ContainsRegex("request cmpl-[0-9a-f]+, trace 0af7651916cd43dd8448eb211c80319c: "));
  EXPECT_THAT(script_.traces, testing::ElementsAre(trace, trace, trace));
  const std::vector<std::string> all = asked();
  ASSERT_EQ(all.size(), 3U) << testing::PrintToString(all);
  EXPECT_EQ(all[0], "prompt");
  EXPECT_THAT(all[1], testing::EndsWith(" with KV"));
  EXPECT_THAT(all[2], testing::EndsWith(" with KV"));
  EXPECT_NE(all[1], all[2]);
  const auto kept = [this] {
    const std::lock_guard lock(script_.mutex);
    return script_.kept.size();
  };
  while (kept() > 0) std::this_thread::yield();
}

TEST_F(LostWorkersTest, WhatAFullWorkerRefusesGoesToAnotherWhichFindsThePromptsKvAsWell) {
  script_.answers_lost = 2;
  script_.lost_with = {Code::kOverloaded, "its queue is full", "", 1};
  ask("/v1/completions", body());
  const std::vector<std::string> all = asked();
  ASSERT_EQ(all.size(), 4U) << testing::PrintToString(all);
  EXPECT_EQ(all[0], "prompt");
  for (const std::size_t i : {1, 2, 3}) EXPECT_THAT(all[i], testing::EndsWith(" with KV"));
  EXPECT_NE(all[1], all[2]);
  EXPECT_NE(all[2], all[3]);
  EXPECT_EQ(metric("penstock_requests_moved_total"), 2);
  script_.answers_lost = 3;
  ask("/v1/completions", body(), 429);
}

TEST_F(LostWorkersTest, OfManyThatMoveOneIsNamedInTheLog) {
  testing::internal::CaptureStderr();
  for (int i = 0; i < 20; ++i) {
    script_.answers_lost = 1;
    ask("/v1/completions", body());
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(metric("penstock_requests_moved_total"), 20);
  std::size_t lines = 0;
  for (std::size_t at = 0; (at = log.find("before the first token", at) + 1) != 0;) ++lines;
  EXPECT_GE(lines, 1U);
  EXPECT_LE(lines, 2U);  // a loop each
}

TEST_F(LostWorkersTest, OfWhatItCannotDoNobodyElseIsAsked) {
  script_.answers_lost = 1;
  script_.lost_with = {Code::kUnprocessable, "not with this model", "", 0};
  ask("/v1/completions", body(), 422);
  EXPECT_EQ(asked().size(), 2U);
}

TEST_F(LostWorkersTest, WhereNobodyIsLeftWhoTakesAnswersAWorkerForWholeRequestsDoes) {
  script_.hold_prompts = true;
  Call call;
  auto handle = start(call, "/v1/completions", body());
  while (asked().empty()) std::this_thread::yield();
  for (const std::size_t answers : {1, 2}) places_[answers].reset();  // they leave
  while (model_->dispatcher().view().workers.size() > 2) std::this_thread::yield();
  script_.held.front().first->deliver({&script_.held.front().second, 1});
  call.wait();
  EXPECT_EQ(call.status(), 200);
  EXPECT_EQ(asked().back(), "whole with KV");
  on_loop([&] { handle.reset(); });
}

TEST_F(LostWorkersTest, WhatLiesInTiersBehindThemIsShownAsOfWorkersOfThisProcess) {
  const auto asked_for = [this](kv::Slot worker) {
    return metric(fmt::format(R"(penstock_kv_tier_asked_total{{worker="{}"}})", worker));
  };
  const std::vector<WorkerView> workers = model_->dispatcher().view().workers;
  ASSERT_EQ(workers.size(), 4U);
  for (const WorkerView& worker : workers) {
    while (asked_for(worker.slot) == 0) std::this_thread::yield();
    EXPECT_EQ(asked_for(worker.slot), static_cast<double>(worker.instance.size()));
  }
  EXPECT_EQ(metric("penstock_kv_tier_asked_total"), 0);
}

TEST_F(LostWorkersTest, MoreChoicesThanTheyEverHoldAreRefusedAlsoWhileNobodyIsThere) {
  const auto ask_for = [this](std::uint64_t choices, int status) {
    return ask("/v1/completions",
               fmt::format(R"({{"model":"tiny","prompt":"x","max_tokens":1,"n":{}}})", choices),
               status);
  };
  const std::uint64_t most = 3 * (info_.sequences_max + info_.queue_max);  // who answers
  EXPECT_EQ(text_at(ask_for(most + 1, 400), "/error/param"), "n");
  for (const std::size_t answers : {1, 2, 3}) places_[answers].reset();  // they leave
  while (model_->dispatcher().view().workers.size() > 1) std::this_thread::yield();
  EXPECT_EQ(text_at(ask_for(most + 1, 400), "/error/param"), "n");
  ask_for(most, 503);  // as soon as they are back
}

/// The same, found soon when they give no tokens though their processes answer.
class HangingWorkersTest : public LostWorkersTest {
 protected:
  HangingWorkersTest() { canary_after_ = std::chrono::seconds(1); }
};

TEST_F(HangingWorkersTest, APromptThatHangsIsComputedElsewhere) {
  script_.hangs_with = HangsWith::kPrompt;
  ask("/v1/completions", body());
  EXPECT_THAT(script_.hanging, testing::ElementsAre("prompt"));
  EXPECT_EQ(metric(R"(penstock_requests_split_total{outcome="recomputed"})"), 1);
}

TEST_F(HangingWorkersTest, AnAnswerWithoutATokenIsGivenElsewhere) {
  script_.hangs_with = HangsWith::kAnswer;
  ask("/v1/completions", body());
  EXPECT_EQ(script_.hanging.size(), 1U);
  EXPECT_GE(metric("penstock_requests_moved_total"), 1);
}

TEST_F(HangingWorkersTest, AnAnswerThatHasBegunEndsWithAnError) {
  script_.hangs_with = HangsWith::kAnswerBegun;
  const std::vector<std::string> told = events(ask("/v1/completions", body(true)));
  EXPECT_EQ(script_.hanging.size(), 1U);
  ASSERT_GE(told.size(), 2U);
  EXPECT_EQ(text_at(told.back(), "/error/message"),
            "the worker stopped before the answer was complete");
}

}  // namespace
}  // namespace penstock::serve
