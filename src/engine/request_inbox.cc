#include "engine/request_inbox.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace penstock::engine {
namespace {

template <class T>
void append(std::vector<T>& to, std::vector<T>& from) {
  if (to.empty()) {
    to.swap(from);  // the two buffers change places, so that none is allocated again
  } else {
    std::ranges::move(from, std::back_inserter(to));
    from.clear();
  }
}

std::unexpected<Error> stopping() { return fail(Code::kUnavailable, "the engine is stopping"); }

}  // namespace

void InboxBatch::clear() {
  requests.clear();
  aborts.clear();
  embeds.clear();
}

Result<void> RequestInbox::submit(GenerateRequest request) {
  std::unique_lock lock(mutex_);
  if (closed_) return stopping();
  // Requests not yet reported fill the free places first; once somebody waits, they all queue.
  const std::uint32_t places = limits_.sequences_max - std::min(running_, limits_.sequences_max);
  const std::uint32_t unplaced =
      waiting_ > 0 ? unreported_ + 1 : unreported_ + 1 - std::min(unreported_ + 1, places);
  if (waiting_ + unplaced > limits_.queue_max) return std::unexpected(overloaded("requests"));
  if (!live_.try_emplace(request.id, false).second) {
    return fail(Code::kInvalidArgument,
                fmt::format("a request with id {} is already being served", request.id.value));
  }
  ++unreported_;
  batch_.requests.push_back(std::move(request));
  wake(lock);
  return {};
}

Result<void> RequestInbox::submit(EmbedRequest request, EmbedDone done) {
  std::unique_lock lock(mutex_);
  if (closed_) return stopping();
  if (batch_.embeds.size() >= std::max(limits_.queue_max, 1U)) {
    return std::unexpected(overloaded("embeddings"));
  }
  batch_.embeds.push_back({std::move(request), std::move(done)});
  wake(lock);
  return {};
}

void RequestInbox::abort(RequestId id, CancelReason reason) {
  std::unique_lock lock(mutex_);
  const auto live = live_.find(id);
  if (live == live_.end() || live->second) return;
  live->second = true;
  batch_.aborts.push_back({id, reason});
  wake(lock);
}

void RequestInbox::close() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  attention_.store(true, std::memory_order_release);
  lock.unlock();
  changed_.notify_all();
}

Error RequestInbox::overloaded(const char* what) const {
  return {.code = Code::kOverloaded,
          .message = fmt::format("the engine's queue is full ({} {} wait); try again later",
                                 limits_.queue_max, what),
          .retry_after_s = limits_.retry_after_s};
}

/// A thread that is awake looks by itself before it sleeps again.
void RequestInbox::wake(std::unique_lock<std::mutex>& lock) {
  attention_.store(true, std::memory_order_release);
  const bool signal = std::exchange(idle_, false);
  lock.unlock();
  if (signal) changed_.notify_one();
}

void RequestInbox::hand_over(InboxBatch& batch) {
  append(batch.requests, batch_.requests);
  append(batch.aborts, batch_.aborts);
  append(batch.embeds, batch_.embeds);
  attention_.store(closed_, std::memory_order_release);
}

bool RequestInbox::take(InboxBatch& batch) {
  const std::lock_guard lock(mutex_);
  hand_over(batch);
  return !closed_;
}

bool RequestInbox::wait(InboxBatch& batch) {
  std::unique_lock lock(mutex_);
  while (!attention_.load(std::memory_order_relaxed)) {
    idle_ = true;
    changed_.wait(lock);
  }
  idle_ = false;
  hand_over(batch);
  return !closed_;
}

bool RequestInbox::sleep(Nanos time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return closed_; });
}

void RequestInbox::report(std::uint32_t running, std::uint32_t waiting,
                          std::span<const RequestId> ended) {
  const std::lock_guard lock(mutex_);
  running_ = running;
  waiting_ = waiting;
  unreported_ = static_cast<std::uint32_t>(batch_.requests.size());
  for (const RequestId id : ended) live_.erase(id);
}

std::uint32_t RequestInbox::unreported() const {
  const std::lock_guard lock(mutex_);
  return unreported_;
}

}  // namespace penstock::engine
