// KV that a worker elsewhere keeps for others is let go on every path: its lease is a call.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>

#include "engine/remote/engine_server.h"
#include "engine/remote/remote_engine.h"
#include "engine/remote/sanitizer_for_test.h"
#include "engine/remote/until_for_test.h"
#include "engine/sink_for_test.h"

namespace penstock::engine {
namespace {

constexpr std::uint32_t kBlock = 16;

/// A worker whose prompts are computed in no time, and which keeps what they leave until abort().
class KeepingEngine final : public Engine {
 public:
  [[nodiscard]] const EngineInfo& info() const override { return info_; }
  Result<void> generate(GenerateRequest request) override {
    Output end{.request = request.id, .finish = FinishReason::kLength};
    end.usage.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
    if (request.prefill_only) {
      KvTicket ticket{.source = 1, .grant = {}, .blocks = {}, .at = {.tcp_port = 9}};
      ticket.blocks.resize(request.prompt.size() / kBlock);
      end.kv = std::make_shared<const KvTicket>(std::move(ticket));
      const std::lock_guard lock(mutex_);
      kept_.insert(request.id);
    }
    request.sink->deliver({&end, 1});
    if (goes_on_) {
      Output more{.request = request.id, .token = 1};
      request.sink->deliver({&more, 1});
    }
    return {};
  }
  /// From now on it says more than its last word.
  void go_on() { goes_on_ = true; }
  void abort(RequestId id, CancelReason) override {
    const std::lock_guard lock(mutex_);
    kept_.erase(id);
  }
  Result<void> embed(EmbedRequest, EmbedDone) override { return {}; }
  [[nodiscard]] LoadReport load() const override { return {.generation = 1}; }
  [[nodiscard]] const kv::EventSource* kv_events() const override { return nullptr; }
  [[nodiscard]] std::size_t kept() const {
    const std::lock_guard lock(mutex_);
    return kept_.size();
  }

 private:
  const EngineInfo info_{.model = "fake",
                         .block_tokens = kBlock,
                         .context_tokens_max = 1000,
                         .sequences_max = 2,
                         .queue_max = 2,
                         .vocabulary_size = 100,
                         .hands_kv_over = true};
  std::atomic<bool> goes_on_ = false;
  mutable std::mutex mutex_;
  std::set<RequestId> kept_;
};

class KvLeaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
    auto server =
        EngineServer::start({.address = "127.0.0.1:0", .instance = "one"}, engine_, clock_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
    remote_ = connect();
  }
  std::unique_ptr<RemoteEngine> connect() {
    auto remote = RemoteEngine::connect({.address = "127.0.0.1:" + std::to_string(server_->port()),
                                         .instance = "one",
                                         .info = engine_.info(),
                                         .tells_kv_events = false},
                                        clock_);
    EXPECT_TRUE(until([&] { return remote->connected(); }));
    return remote;
  }
  /// Leaves the KV of a prompt at the worker.
  std::shared_ptr<const KvTicket> prefill(RemoteEngine& remote, std::uint64_t id) {
    GenerateRequest request{.id = {id}, .sink = &sink_, .prompt = std::vector<Token>(100, 1)};
    request.prefill_only = true;
    EXPECT_TRUE(remote.generate(std::move(request)));
    const Output end = sink_.wait_for_end(id);
    EXPECT_EQ(end.finish, FinishReason::kLength);
    EXPECT_EQ(end.usage.prompt_tokens, 100U);
    return end.kv;
  }

  SteadyClock clock_;
  TestSink sink_;  // outlives the engines
  KeepingEngine engine_;
  std::unique_ptr<EngineServer> server_;
  std::unique_ptr<RemoteEngine> remote_;
};

TEST_F(KvLeaseTest, ATicketSaysWhereItsWorkerIs) {
  const auto ticket = prefill(*remote_, 1);
  ASSERT_NE(ticket, nullptr);
  EXPECT_EQ(ticket->blocks.size(), 100U / kBlock);
  EXPECT_EQ(ticket->at, (KvAddress{.socket_path = {}, .tcp_host = "127.0.0.1", .tcp_port = 9}));
}

TEST_F(KvLeaseTest, AnAbortEndsTheLeaseAndNoOther) {
  for (std::uint64_t id = 1; id <= 20; ++id) (void)prefill(*remote_, id);  // they queue nowhere
  EXPECT_EQ(engine_.kept(), 20U);
  for (std::uint64_t id = 1; id <= 20; ++id) {
    remote_->abort({id}, CancelReason::kClientGone);
    ASSERT_TRUE(until([&] { return engine_.kept() == 20 - id; }));
  }
  EXPECT_TRUE(until([&] { return server_->live() == 0; }));
  EXPECT_EQ(remote_->load().accepted, 20U);
}

TEST_F(KvLeaseTest, AWorkerThatGoesOnAfterThePromptIsDoneLosesTheCall) {
  engine_.go_on();
  EXPECT_NE(prefill(*remote_, 1), nullptr);
  EXPECT_TRUE(until([&] { return engine_.kept() == 0 && server_->live() == 0; }));
}

TEST_F(KvLeaseTest, AFrontEndThatIsGoneEndsItsLeasesOnly) {
  auto other = connect();
  (void)prefill(*remote_, 1);
  (void)prefill(*other, 2);
  (void)prefill(*other, 3);
  EXPECT_EQ(engine_.kept(), 3U);
  other->give_up();
  ASSERT_TRUE(until([&] { return engine_.kept() == 1; }));
  other.reset();
  EXPECT_EQ(engine_.kept(), 1U);
  remote_.reset();
  EXPECT_TRUE(until([&] { return engine_.kept() == 0; }));
}

TEST_F(KvLeaseTest, AServerThatEndsWaitsForNoLease) {
  (void)prefill(*remote_, 1);
  EXPECT_EQ(server_->live(), 1U);  // whoever drains waits for it as for a request
  server_.reset();
  EXPECT_EQ(engine_.kept(), 0U);
  remote_->abort({1}, CancelReason::kClientGone);
}

}  // namespace
}  // namespace penstock::engine
