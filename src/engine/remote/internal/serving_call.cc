#include "engine/remote/internal/serving_call.h"

#include <iterator>
#include <utility>

namespace penstock::engine {

void ServingCall::refuse(const Error& error) {
  {
    const std::lock_guard lock(mutex_);
    engine_done_ = true;
    finishing_ = true;
  }
  Finish(rpc::to_status(error));
}

/// Under the lock, so that this is there when the pump looks.
void ServingCall::mark() {
  if (!std::exchange(marked_, true)) pump_.mark(*this);
}

void ServingCall::deliver(std::span<Output> outputs) {
  std::unique_lock lock(mutex_);
  engine_done_ = engine_done_ || (!outputs.empty() && outputs.back().finish);
  if (!connection_over_ && !cancelled_) {
    std::ranges::move(outputs, std::back_inserter(waiting_));
    mark();
  }
  if (!unused()) return;
  lock.unlock();
  delete this;
}

void ServingCall::flush() {
  std::unique_lock lock(mutex_);
  marked_ = false;
  if (connection_over_) {
    if (!unused()) return;
    lock.unlock();
    delete this;
    return;
  }
  if (writing_ || finishing_) return;
  if (cancelled_) {
    finishing_ = true;
    lock.unlock();
    return Finish(grpc::Status::CANCELLED);
  }
  if (ready_.empty()) {
    taken_.clear();
    taken_.swap(waiting_);
    wire::write(taken_, ready_);
    if (ready_.empty()) return;
  }
  response_ = std::move(ready_.front());
  ready_.erase(ready_.begin());
  response_.set_request_id(request_id_);
  if (response_.has_prefill_ready()) {
    response_.mutable_prefill_ready()->mutable_kv_session()->set_session_id(request_id_);
  }
  writing_ = true;
  finishing_ = response_.has_finished() || response_.has_error();
  const bool last = finishing_;
  lock.unlock();
  if (last) {
    StartWriteAndFinish(&response_, {}, grpc::Status::OK);
  } else {
    StartWrite(&response_);
  }
}

void ServingCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  cancelled_ = cancelled_ || !ok;
  if (cancelled_ || !ready_.empty() || !waiting_.empty()) mark();
}

void ServingCall::OnCancel() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    waiting_.clear();
    mark();
  }
  engine_.abort(id_, CancelReason::kClientGone);
}

void ServingCall::OnDone() {
  registry_.ended(request_id_);
  std::unique_lock lock(mutex_);
  connection_over_ = true;
  if (!unused()) return;
  lock.unlock();
  delete this;
}

}  // namespace penstock::engine
