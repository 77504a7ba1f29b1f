#pragma once

#include <grpcpp/alarm.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/wire.h"
#include "engine/remote/openengine.grpc.pb.h"

namespace penstock::engine {

/// Where a client keeps the requests that it has given to a worker.
class AskedRequests {
 public:
  /// The request's last output comes next: its id is free. With `leaves_kv` the call goes on, as
  /// the lease on what the worker keeps.
  virtual void ending(RequestId id, bool leaves_kv) = 0;
  /// No lease of that id goes on any more.
  virtual void lease_over(RequestId id) = 0;
  /// gRPC is done with the call. The last thing that is heard of it.
  virtual void over() = 0;

 protected:
  ~AskedRequests() = default;
};

/// One generation by a remote worker, from the call to its last output. Deletes itself.
class AskingCall final : public grpc::ClientReadReactor<wire::oe::GenerateResponse> {
 public:
  AskingCall(AskedRequests& owner, OutputSink* sink, wire::Expected expected,
             std::shared_ptr<grpc::ClientContext> context)
      : owner_(owner), context_(std::move(context)), sink_(sink), expected_(std::move(expected)) {}

  void start(wire::oe::Inference::Stub& stub, const GenerateRequest& request,
             const std::string& request_id);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  ~AskingCall() override = default;
  void deliver();

  AskedRequests& owner_;
  const std::shared_ptr<grpc::ClientContext> context_;  // whoever cancels has it as well
  OutputSink* const sink_;
  wire::Expected expected_;
  wire::oe::GenerateRequest request_;
  wire::oe::GenerateResponse response_;
  std::vector<Output> outputs_;
  bool ended_ = false;   // the last output is delivered
  bool leases_ = false;  // it goes on as a lease
};

/// A stream that is read to its end. Deletes itself.
template <class Response>
class WatchingCall final : public grpc::ClientReadReactor<Response> {
 public:
  using Take = std::move_only_function<bool(const Response&)>;  // false: no more
  using Over = std::move_only_function<void(const grpc::Status&)>;

  WatchingCall(std::shared_ptr<grpc::ClientContext> context, Take take, Over over)
      : context_(std::move(context)), take_(std::move(take)), over_(std::move(over)) {}

  void start() {
    this->StartRead(&response_);
    this->StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (!stopped_ && !take_(response_)) {
      stopped_ = true;
      context_->TryCancel();
    }
    this->StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    Over over = std::move(over_);
    delete this;
    over(status);
  }

 private:
  ~WatchingCall() override = default;

  const std::shared_ptr<grpc::ClientContext> context_;
  Response response_;
  Take take_;
  Over over_;
  bool stopped_ = false;
};

}  // namespace penstock::engine
