// A request's place at a worker, from the choice to its end.

#include <utility>

#include "serve/dispatcher.h"

namespace penstock::serve {

Assignment& Assignment::operator=(Assignment&& other) noexcept {
  if (this == &other) return *this;
  release();
  dispatcher_ = std::exchange(other.dispatcher_, nullptr);
  at_ = other.at_;
  worker_ = other.worker_;
  lease_ = std::move(other.lease_);
  decision_ = other.decision_;
  predicted_cached_tokens_ = other.predicted_cached_tokens_;
  told_cached_tokens_ = other.told_cached_tokens_;
  locals_ = std::move(other.locals_);
  cached_blocks_ = other.cached_blocks_;
  stage_ = other.stage_;
  prompt_at_ = other.prompt_at_;
  kept_tokens_ = other.kept_tokens_;
  output_tokens_ = other.output_tokens_;
  placed_ = other.placed_;
  first_token_ = other.first_token_;
  return *this;
}

engine::Engine& Assignment::engine() const noexcept { return *at_->engine; }
bool Assignment::is_remote() const noexcept { return at_->remote != nullptr; }
bool Assignment::hangs() const noexcept {
  return dispatcher_ != nullptr && at_->hangs.load(std::memory_order_relaxed);
}

void Assignment::taken() noexcept {
  // Who keeps no KV computes every prompt whole.
  const bool keeps_kv = at_->engine->info().kv_blocks_max > 0;
  if (locals_.empty() || !keeps_kv || !dispatcher_->router_.needs().taken) return;
  const std::lock_guard lock(dispatcher_->mutex_);
  lease_.taken(locals_, cached_blocks_);
}

void Assignment::refused() noexcept {
  const std::lock_guard lock(dispatcher_->mutex_);
  ++at_->refused;
  dispatcher_->changes_.set(worker_);
}

void Assignment::first_token(const engine::Usage& usage) noexcept {
  if (dispatcher_ == nullptr || first_token_ != TimePoint::min()) return;
  first_token_ = dispatcher_->clock_.now();
  const std::lock_guard lock(dispatcher_->mutex_);
  lease_.first_token();
  if (fleet::WorkerHealth* health = dispatcher_->health_at(*this)) {
    health->token(first_token_);
  }
  dispatcher_->compare(*this, usage, first_token_);
}

void Assignment::generated(std::uint32_t tokens) noexcept {
  output_tokens_ += tokens;
  if (dispatcher_ == nullptr || !dispatcher_->router_.needs().outputs) return;
  const std::lock_guard lock(dispatcher_->mutex_);
  lease_.generated(tokens);
}

void Assignment::handed_over(const engine::Usage& usage) noexcept {
  if (dispatcher_ == nullptr) return;
  first_token(usage);
  const std::lock_guard lock(dispatcher_->mutex_);
  if (fleet::WorkerHealth* health = dispatcher_->health_at(*this)) {
    health->request_ended(std::nullopt, first_token_);
  }
  lease_.release();
}

void Assignment::finished() noexcept {
  if (dispatcher_ == nullptr || !lease_) return;
  const TimePoint now = dispatcher_->clock_.now();
  const TimePoint first = first_token_ == TimePoint::min() ? now : first_token_;
  const std::lock_guard lock(dispatcher_->mutex_);
  dispatcher_->router_.finished(to_ms(first - placed_), to_ms(now - first), output_tokens_);
  if (fleet::WorkerHealth* health = dispatcher_->health_at(*this)) {
    health->request_ended(std::nullopt, now);
  }
  lease_.release();
}

void Assignment::failed(FaultClass fault) noexcept {
  if (dispatcher_ == nullptr) return;
  const std::lock_guard lock(dispatcher_->mutex_);
  if (fleet::WorkerHealth* health = dispatcher_->health_at(*this)) {
    health->request_ended(fault, dispatcher_->clock_.now());
  }
}

void Assignment::canary_ended(bool well) noexcept {
  if (dispatcher_ == nullptr) return;
  const std::lock_guard lock(dispatcher_->mutex_);
  if (fleet::WorkerHealth* health = dispatcher_->health_at(*this)) {
    health->canary_ended(well, dispatcher_->clock_.now());
  }
}

bool Assignment::canary_lost() const noexcept {
  if (dispatcher_ == nullptr) return true;
  const std::lock_guard lock(dispatcher_->mutex_);
  return dispatcher_->workers_[worker_].get() != at_ ||
         !dispatcher_->registry_.health(worker_)->awaits_canary();
}

void Assignment::release() noexcept {
  if (dispatcher_ == nullptr) return;
  Dispatcher& dispatcher = *std::exchange(dispatcher_, nullptr);
  const std::lock_guard lock(dispatcher.mutex_);
  lease_.release();
  --at_->users;
}

}  // namespace penstock::serve
