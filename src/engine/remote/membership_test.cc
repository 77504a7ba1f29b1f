#include "engine/remote/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/penstock.grpc.pb.h"
#include "engine/remote/sanitizer_for_test.h"

namespace penstock::engine {
namespace {

/// Writes down what workers say.
class TestMembership final : public Membership {
 public:
  Result<void> join(const JoiningWorker& worker) override {
    const std::lock_guard lock(mutex_);
    joins_.push_back(worker);
    changed_.notify_all();
    if (refusal_) return std::unexpected(*refusal_);
    return {};
  }
  void leave(const std::string& instance) override {
    const std::lock_guard lock(mutex_);
    left_.push_back(instance);
    changed_.notify_all();
  }
  void refuse(std::optional<Error> why) {
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(why);
  }

  /// The next call to join that is as wanted; those before are forgotten.
  JoiningWorker wait_for(const std::function<bool(const JoiningWorker&)>& wanted) {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return !joins_.empty(); });
      JoiningWorker next = std::move(joins_.front());
      joins_.pop_front();
      if (wanted(next)) return next;
    }
  }
  JoiningWorker next() {
    return wait_for([](const JoiningWorker&) { return true; });
  }
  std::size_t joins() {
    const std::lock_guard lock(mutex_);
    return joins_.size();
  }
  std::vector<std::string> left() {
    const std::lock_guard lock(mutex_);
    return left_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Error> refusal_;
  std::deque<JoiningWorker> joins_;
  std::vector<std::string> left_;
};

class MembershipTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kThreadSanitizer) GTEST_SKIP() << "gRPC is not built for it";
  }
  void open(std::uint16_t port = 0) {
    auto server = JoinServer::start({.address = "127.0.0.1:" + std::to_string(port),
                                     .secret = secret_,
                                     .heartbeat = std::chrono::milliseconds(10)},
                                    front_end_);
    ASSERT_TRUE(server) << server.error().message;
    door_ = std::move(*server);
  }
  std::unique_ptr<Joining> join(const std::string& instance, const std::string& secret = {}) {
    return Joining::start({.front_end = "127.0.0.1:" + std::to_string(door_->port()),
                           .secret = secret,
                           .instance = instance,
                           .host = {},
                           .port = 1234,
                           .info = {.model = "m",
                                    .context_tokens_max = 100,
                                    .sequences_max = 3,
                                    .vocabulary_size = 10},
                           .tells_kv_events = true});
  }

  std::string secret_;
  TestMembership front_end_;
  std::unique_ptr<JoinServer> door_;
};

TEST_F(MembershipTest, AWorkerJoinsAndIsHeardAgainAndAgain) {
  open();
  {
    const auto worker = join("one");
    const JoiningWorker first = front_end_.next();
    EXPECT_EQ(first.instance, "one");
    EXPECT_EQ(first.address, "127.0.0.1:1234");
    EXPECT_EQ(first.info.model, "m");
    EXPECT_EQ(first.info.vocabulary_size, 10U);
    EXPECT_TRUE(first.tells_kv_events);
    EXPECT_FALSE(first.draining);
    front_end_.next();
    front_end_.next();
    EXPECT_TRUE(worker->joined());
    EXPECT_TRUE(front_end_.left().empty());
    worker->drain();
    front_end_.wait_for([](const JoiningWorker& w) { return w.draining; });
  }
  EXPECT_THAT(front_end_.left(), ::testing::ElementsAre("one"));
}

TEST_F(MembershipTest, AFrontEndThatComesBackHearsOfItsWorkers) {
  open();
  const auto worker = join("one");
  front_end_.next();
  const std::uint16_t port = door_->port();
  door_.reset();
  while (front_end_.joins() > 0) front_end_.next();
  open(port);
  EXPECT_EQ(front_end_.next().instance, "one");
}

TEST_F(MembershipTest, WhoIsRefusedAsksAgain) {
  open();
  front_end_.refuse(Error{Code::kInvalidArgument, "another model is served here", "", 0});
  const auto worker = join("one");
  front_end_.next();
  front_end_.next();
  EXPECT_FALSE(worker->joined());
  front_end_.refuse(std::nullopt);
  front_end_.next();
  front_end_.next();
  front_end_.next();
  EXPECT_TRUE(worker->joined());
}

TEST_F(MembershipTest, WhoIsNotAnsweredForAWhileLeavesAllTheSame) {
  open();
  {
    const auto worker = join("one");
    front_end_.next();
    front_end_.next();
    EXPECT_TRUE(worker->joined());
    front_end_.refuse(Error{Code::kUnavailable, "not now", "", 1});
    front_end_.next();
    front_end_.next();
    front_end_.next();
    EXPECT_FALSE(worker->joined());
  }
  EXPECT_THAT(front_end_.left(), ::testing::ElementsAre("one"));
}

TEST_F(MembershipTest, WhatNoWorkerSaysIsRefused) {
  secret_ = "open sesame";
  open();
  const auto stub = penstock::v1::FrontEnd::NewStub(
      rpc::open_channel("127.0.0.1:" + std::to_string(door_->port())));
  std::string bearer = rpc::bearer_of(secret_);
  const auto status = [&](const std::string& instance, const std::string& host) {
    penstock::v1::JoinRequest request;
    request.set_revision(1);
    request.set_instance_id(instance);
    request.set_host(host);
    request.set_port(1234);
    wire::write(
        {.model = "m", .context_tokens_max = 100, .sequences_max = 3, .vocabulary_size = 10}, true,
        *request.mutable_card());
    penstock::v1::JoinResponse response;
    grpc::ClientContext context;
    rpc::add_headers(context, bearer, {});
    return stub->Join(&context, request, &response).error_code();
  };
  EXPECT_EQ(status("one", "10.0.0.1"), grpc::StatusCode::OK);
  EXPECT_EQ(status(std::string(65, 'x'), "10.0.0.1"), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status("a\nb", "10.0.0.1"), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status("one", "10.0.0.1:80"), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status(std::string(1 << 20, 'x'), ""), grpc::StatusCode::RESOURCE_EXHAUSTED);
  // Without the right bearer nothing else that is said counts; the secret itself is none.
  for (const std::string& shown : {std::string("wrong"), secret_}) {
    bearer = shown;
    EXPECT_EQ(status(std::string(1 << 20, 'x'), ""), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(status("one", ""), grpc::StatusCode::UNAUTHENTICATED);
  }
}

TEST_F(MembershipTest, AWorkerIsWhereItsCallsComeFromUnlessItSaysOtherwise) {
  EXPECT_EQ(rpc::host_of_peer("ipv4:10.0.0.1:4000"), "10.0.0.1");
  EXPECT_EQ(rpc::host_of_peer("ipv6:%5B2001:db8::1%5D:4000"), "[2001:db8::1]");
  EXPECT_EQ(rpc::host_of_peer("ipv6:[::1]:4000"), "[::1]");
  for (const char* peer : {"", "unix:", "unix:/tmp/x", "ipv6:%5", "ipv6:%zz%5D:1"}) {
    EXPECT_EQ(rpc::host_of_peer(peer), "") << peer;
  }
}

TEST_F(MembershipTest, ASecretIsAskedFor) {
  secret_ = "open sesame";
  open();
  const auto without = join("without");
  const auto wrong = join("wrong", "open barley");
  const auto right = join("right", "open sesame");
  for (int i = 0; i < 30; ++i) EXPECT_EQ(front_end_.next().instance, "right");
  EXPECT_FALSE(without->joined());
  EXPECT_FALSE(wrong->joined());
}

TEST_F(MembershipTest, AnAddressThatIsTakenOrNoneIsAnError) {
  open();
  const auto start = [&](const std::string& address) {
    return JoinServer::start({.address = address}, front_end_);
  };
  EXPECT_EQ(start("127.0.0.1:" + std::to_string(door_->port())).error().code, Code::kUnavailable);
  EXPECT_EQ(start("localhost").error().code, Code::kInvalidArgument);
}

TEST_F(MembershipTest, LivesHaveNamesOfTheirOwn) { EXPECT_NE(new_instance(), new_instance()); }

}  // namespace
}  // namespace penstock::engine
