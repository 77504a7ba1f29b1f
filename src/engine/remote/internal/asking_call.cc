#include "engine/remote/internal/asking_call.h"

#include <fmt/format.h>

namespace penstock::engine {
namespace {

/// How a call ended that did not say so itself.
Output end_of(RequestId id, const grpc::Status& status) {
  Output end{.request = id, .finish = FinishReason::kError};
  switch (status.error_code()) {
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED: end.finish = FinishReason::kCancelled; break;
    case grpc::StatusCode::OK:
      end.error = "the worker broke off without an end";
      end.error_code = Code::kInternal;
      break;
    default: {
      const Error error = rpc::to_error(status);
      const bool lost = error.code == Code::kUnavailable && status.error_details().empty();
      end.error = lost ? "the worker was lost before the answer was complete" : error.message;
      end.error_code = error.code;
    }
  }
  return end;
}

}  // namespace

void AskingCall::start(wire::oe::Inference::Stub& stub, const GenerateRequest& request,
                       const std::string& request_id) {
  wire::write(request, request_);
  request_.set_request_id(request_id);
  stub.async()->Generate(context_.get(), &request_, this);
  StartRead(&response_);
  StartCall();
}

void AskingCall::OnReadDone(bool ok) {
  if (!ok) return;
  if (ended_) {
    context_->TryCancel();  // it has nothing more to say, and would be read for as long as it does
  } else {
    outputs_.clear();
    if (Result<void> fine = wire::read(response_, expected_, outputs_); !fine) {
      outputs_ = {
          Output{.request = expected_.request,
                 .finish = FinishReason::kError,
                 .error = fmt::format("the worker answers nonsense: {}", fine.error().message),
                 .error_code = Code::kInternal}};
    }
    deliver();
    if (ended_ && !leases_)
      context_->TryCancel();  // nobody else can end a call that goes on without a reason
  }
  StartRead(&response_);
}

void AskingCall::deliver() {
  if (outputs_.empty()) return;
  ended_ = outputs_.back().finish.has_value();
  leases_ = outputs_.back().kv != nullptr;
  if (ended_) owner_.ending(expected_.request, leases_);
  sink_->deliver(outputs_);
}

void AskingCall::OnDone(const grpc::Status& status) {
  if (!ended_) {
    outputs_ = {end_of(expected_.request, status)};
    deliver();
  }
  if (leases_) owner_.lease_over(expected_.request);
  AskedRequests& owner = owner_;
  delete this;
  owner.over();
}

}  // namespace penstock::engine
