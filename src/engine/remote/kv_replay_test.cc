// Which KV events a front end asks for again when a worker's stream of them has ended.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/remote/openengine.grpc.pb.h"
#include "engine/remote/penstock.grpc.pb.h"
#include "engine/remote/remote_engine.h"
#include "engine/remote/sanitizer_for_test.h"
#include "engine/remote/until_for_test.h"

namespace penstock::engine {
namespace {

namespace oe = ::openengine::v1;
namespace ps = ::penstock::v1;

/// Says that it is there, ends whoever asks for its KV events as a test likes, and notes how they
/// were asked for.
class EndingWorker final {
 public:
  using Tell = std::function<void(oe::SubscribeKvEventsResponse&)>;  // the one message, if any
  explicit EndingWorker(std::vector<Tell> tells) : control_(std::move(tells)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&control_);
    builder.RegisterService(&worker_);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~EndingWorker() { server_->Shutdown(std::chrono::system_clock::now()); }
  [[nodiscard]] const std::string& address() const { return address_; }
  /// Each asking's first event, and whether for all that is held.
  [[nodiscard]] std::vector<std::pair<std::uint64_t, bool>> askings() const {
    const std::lock_guard lock(control_.mutex);
    return control_.askings;
  }

 private:
  template <class Response>
  struct Once final : grpc::ServerWriteReactor<Response> {
    void OnDone() override { delete this; }
    void OnWriteDone(bool) override {}
    Response response;
  };
  struct Control final : oe::Control::CallbackService {
    explicit Control(std::vector<Tell> t) : tells(std::move(t)) {}
    grpc::ServerWriteReactor<oe::SubscribeKvEventsResponse>* SubscribeKvEvents(
        grpc::CallbackServerContext*, const oe::SubscribeKvEventsRequest* request) override {
      const std::lock_guard lock(mutex);
      auto* call = new Once<oe::SubscribeKvEventsResponse>;
      const std::size_t at = askings.size();
      if (at < tells.size() && tells[at]) {
        tells[at](call->response);
        call->StartWriteAndFinish(&call->response, {}, grpc::Status::OK);
      } else {
        call->Finish(grpc::Status::OK);
      }
      askings.emplace_back(request->start_sequence_number(), request->include_snapshot());
      return call;
    }
    std::vector<Tell> tells;
    mutable std::mutex mutex;
    std::vector<std::pair<std::uint64_t, bool>> askings;
  };
  struct Worker final : ps::Worker::CallbackService {
    grpc::ServerWriteReactor<ps::LoadReport>* WatchLoad(grpc::CallbackServerContext*,
                                                        const ps::WatchLoadRequest*) override {
      auto* call = new Once<ps::LoadReport>;
      call->StartWriteAndFinish(&call->response, {}, grpc::Status::OK);
      return call;
    }
  };

  Control control_;
  Worker worker_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST(KvReplay, AllThatIsHeldIsAskedForOnlyWhenWhatCameDidNotFit) {
  if (kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
  const SteadyClock clock;
  const auto stored = [](std::uint64_t sequence) {
    return [sequence](oe::SubscribeKvEventsResponse& response) {
      oe::KvEventBatch& batch = *response.mutable_batch();
      batch.set_sequence_number(sequence);
      oe::BlockStored& block = *batch.add_events()->mutable_block_stored();
      block.add_block_hashes()->set_value(std::string(16, static_cast<char>(sequence)));
      block.mutable_parent_block_hash()->set_value(std::string(16, 'r'));
      block.set_begins_chain(true);
    };
  };
  EndingWorker worker({{}, {}, stored(1), {}, stored(3), stored(3), stored(4), {}});
  const auto remote = RemoteEngine::connect({.address = worker.address(),
                                             .info = {.block_tokens = 16, .kv_blocks_max = 10},
                                             .reconnect_first = std::chrono::milliseconds(1),
                                             .reconnect_max = std::chrono::milliseconds(1)},
                                            clock);
  ASSERT_TRUE(until([&] { return worker.askings().size() >= 7; }));
  std::vector<std::pair<std::uint64_t, bool>> askings = worker.askings();
  askings.resize(7);
  // Twice nothing came, then the first event, then nothing; then the second was missing.
  EXPECT_THAT(askings,
              ::testing::ElementsAre(std::pair(1, false), std::pair(1, false), std::pair(1, false),
                                     std::pair(2, false), std::pair(2, false), std::pair(2, true),
                                     std::pair(2, true)));
}

}  // namespace
}  // namespace penstock::engine
