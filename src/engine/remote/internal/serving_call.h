#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/remote/internal/pump.h"
#include "engine/remote/internal/rpc.h"
#include "engine/remote/internal/wire.h"

namespace penstock::engine {

/// Where a server keeps who is being served.
class CallRegistry {
 public:
  /// The call's connection is over; its name is free.
  virtual void ended(const std::string& request_id) = 0;

 protected:
  ~CallRegistry() = default;
};

/// One generation for a caller: what the engine makes goes out as fast as it is taken; what comes
/// meanwhile goes out together.
///
/// It lives until both of its sides are done with it: the engine has told the end, and the
/// connection is over. Either may be first: a caller that leaves does not wait for the engine, nor
/// does the server that stops. After a prefill_ready the open connection is the lease on the KV:
/// its end is the lease's.
class ServingCall final : public grpc::ServerWriteReactor<wire::oe::GenerateResponse>,
                          public OutputSink,
                          public Pumped {
 public:
  ServingCall(Engine& engine, Pump& pump, CallRegistry& registry, RequestId id,
              std::string request_id)
      : engine_(engine),
        pump_(pump),
        registry_(registry),
        id_(id),
        request_id_(std::move(request_id)) {}

  /// The engine has not taken the request.
  void refuse(const Error& error);

  void deliver(std::span<Output> outputs) override;  // the engine's thread
  void flush() override;                             // the pump's

  void OnWriteDone(bool ok) override;  // gRPC's threads
  void OnCancel() override;
  void OnDone() override;

 private:
  ~ServingCall() override = default;
  [[nodiscard]] bool unused() const { return engine_done_ && connection_over_ && !marked_; }
  void mark();

  Engine& engine_;
  Pump& pump_;
  CallRegistry& registry_;
  const RequestId id_;
  const std::string request_id_;

  std::mutex mutex_;
  std::vector<Output> waiting_;  // at most what the request may say
  bool marked_ = false;          // the pump will look at this
  bool writing_ = false;
  bool finishing_ = false;  // the last thing to send is under way
  bool cancelled_ = false;  // nobody reads any more
  bool engine_done_ = false;
  bool connection_over_ = false;

  // The pump's.
  std::vector<Output> taken_;
  std::vector<wire::oe::GenerateResponse> ready_;  // the next first
  wire::oe::GenerateResponse response_;            // under way
};

}  // namespace penstock::engine
