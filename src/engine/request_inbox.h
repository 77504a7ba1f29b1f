#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"

namespace penstock::engine {

struct EmbedJob {
  EmbedRequest request;
  EmbedDone done;
};

/// Whether an embedding that is not complete goes on; if not, what it ends with.
[[nodiscard]] inline Result<void> goes_on(const EmbedRequest& request, TimePoint now) {
  if (request.stop.stop_requested()) return fail(Code::kCancelled, "nobody waits for it");
  if (!request.deadline.passed(now)) return {};
  return fail(Code::kDeadlineExceeded, "the embedding was not complete in time");
}

struct Abort {
  RequestId id;
  CancelReason reason = CancelReason::kClientGone;
};

/// What other threads have asked of an engine's thread since it last looked, each list in order.
/// `Job`: a request as the engine wants it, prepared on the caller's thread.
template <class Job>
struct InboxBatch {
  std::vector<Job> requests;
  std::vector<Abort> aborts;  // of requests given out before or in this batch; each at most once
  std::vector<EmbedJob> embeds;
  bool clear_cache = false;  // before any of the requests begins

  void clear() {
    requests.clear();
    aborts.clear();
    embeds.clear();
    clear_cache = false;
  }
};

/// The door between an engine's one thread and everybody else. It bounds what waits, by
/// construction: requests by the engine's own queue, embeddings by the same number, aborts by the
/// requests that live. The engine's thread is signalled only when it is idle.
///
/// Thread: any for submit(), abort(), clear_cache(), close() and unreported(); the engine's for the
/// rest.
template <class Job>
class RequestInbox final {
 public:
  using Batch = InboxBatch<Job>;
  struct Limits {
    std::uint32_t sequences_max = 1;  // requests that run at once
    std::uint32_t queue_max = 0;      // requests that wait beyond those, and embeddings that wait
    int retry_after_s = 1;            // told to whom is refused
  };

  explicit RequestInbox(const Limits& limits) : limits_(limits) {}

  /// Fails with kOverloaded when as many wait as may, kUnavailable after close(), kInvalidArgument
  /// when a request of this id still lives.
  Result<void> submit(RequestId id, Job job) {
    std::unique_lock lock(mutex_);
    if (closed_) return stopping();
    // Requests not yet reported fill the free places first; once somebody waits, they all queue.
    const std::uint32_t places = limits_.sequences_max - std::min(running_, limits_.sequences_max);
    const std::uint32_t unplaced =
        waiting_ > 0 ? unreported_ + 1 : unreported_ + 1 - std::min(unreported_ + 1, places);
    if (waiting_ + unplaced > limits_.queue_max) return overloaded("requests");
    if (!live_.try_emplace(id, false).second) {
      return fail(Code::kInvalidArgument,
                  fmt::format("a request with id {} is already being served", id.value));
    }
    ++unreported_;
    batch_.requests.push_back(std::move(job));
    wake(lock);
    return {};
  }

  /// Fails with kOverloaded when as many wait as may, kUnavailable after close().
  Result<void> submit(EmbedRequest request, EmbedDone done) {
    std::unique_lock lock(mutex_);
    if (closed_) return stopping();
    if (embeds_waiting_ + batch_.embeds.size() >= std::max(limits_.queue_max, 1U)) {
      return overloaded("embeddings");
    }
    batch_.embeds.push_back({std::move(request), std::move(done)});
    wake(lock);
    return {};
  }

  /// Unknown and finished ids are ignored, and so is the second abort of one.
  void abort(RequestId id, CancelReason reason) {
    std::unique_lock lock(mutex_);
    const auto live = live_.find(id);
    if (live == live_.end() || live->second) return;
    live->second = true;
    batch_.aborts.push_back({id, reason});
    wake(lock);
  }

  /// Asked for twice before the engine looks, it is done once.
  void clear_cache() {
    std::unique_lock lock(mutex_);
    batch_.clear_cache = true;
    wake(lock);
  }

  /// Nothing is taken in from now on, and the engine's thread wakes.
  void close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    attention_.store(true, std::memory_order_release);
    lock.unlock();
    changed_.notify_all();
  }

  /// True once there may be something to take or the inbox is closed. Costs one load.
  [[nodiscard]] bool attention() const noexcept {
    return attention_.load(std::memory_order_acquire);
  }

  /// Adds what has come in to `batch`. False: closed (and this was the rest).
  bool take(Batch& batch) {
    const std::lock_guard lock(mutex_);
    hand_over(batch);
    return !closed_;
  }

  /// Like take(), but waits until there is something or the inbox is closed, or for `at_most`.
  bool wait(Batch& batch, Nanos at_most = Nanos::max()) {
    std::unique_lock lock(mutex_);
    const auto until =
        at_most == Nanos::max() ? TimePoint::max() : std::chrono::steady_clock::now() + at_most;
    bool in_time = true;
    while (!attention_.load(std::memory_order_relaxed) && in_time) {
      idle_ = true;
      if (until == TimePoint::max()) {
        changed_.wait(lock);
      } else {
        in_time = changed_.wait_until(lock, until) == std::cv_status::no_timeout;
      }
    }
    idle_ = false;
    hand_over(batch);
    return !closed_;
  }

  /// Sleeps for `time`; what comes in meanwhile does not end it. False: closed, at once.
  bool sleep(Nanos time) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, time, [this] { return closed_; });
  }

  /// What the engine does with what it took: how many requests run and wait now, which have ended
  /// since the last report, and how many embeddings it has not begun. Call before the requests'
  /// last Output is delivered. Until a request appears here it counts as waiting.
  void report(std::uint32_t running, std::uint32_t waiting, std::span<const RequestId> ended,
              std::size_t embeds_waiting = 0) {
    const std::lock_guard lock(mutex_);
    running_ = running;
    waiting_ = waiting;
    embeds_waiting_ = embeds_waiting;
    unreported_ = static_cast<std::uint32_t>(batch_.requests.size());
    for (const RequestId id : ended) live_.erase(id);
  }

  /// Requests accepted and not yet in a report. Those in it that run or wait come on top.
  [[nodiscard]] std::uint32_t unreported() const {
    const std::lock_guard lock(mutex_);
    return unreported_;
  }

 private:
  static std::unexpected<Error> stopping() {
    return fail(Code::kUnavailable, "the engine is stopping");
  }
  [[nodiscard]] std::unexpected<Error> overloaded(const char* what) const {
    return std::unexpected(
        Error{.code = Code::kOverloaded,
              .message = fmt::format("the engine's queue is full ({} {} wait); try again later",
                                     limits_.queue_max, what),
              .retry_after_s = limits_.retry_after_s});
  }

  /// A thread that is awake looks by itself before it sleeps again.
  void wake(std::unique_lock<std::mutex>& lock) {
    attention_.store(true, std::memory_order_release);
    const bool signal = std::exchange(idle_, false);
    lock.unlock();
    if (signal) changed_.notify_one();
  }

  void hand_over(Batch& batch) {
    embeds_waiting_ += batch_.embeds.size();
    append(batch.requests, batch_.requests);
    append(batch.aborts, batch_.aborts);
    append(batch.embeds, batch_.embeds);
    if (std::exchange(batch_.clear_cache, false)) batch.clear_cache = true;
    attention_.store(closed_, std::memory_order_release);
  }

  template <class T>
  static void append(std::vector<T>& to, std::vector<T>& from) {
    if (to.empty()) {
      to.swap(from);  // the two buffers change places, so that none is allocated again
    } else {
      std::ranges::move(from, std::back_inserter(to));
      from.clear();
    }
  }

  const Limits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> attention_ = false;
  bool closed_ = false;
  bool idle_ = false;  // the engine's thread is in wait()
  Batch batch_;
  std::unordered_map<RequestId, bool> live_;  // id -> its abort has been asked for
  std::uint32_t running_ = 0;                 // as last reported
  std::uint32_t waiting_ = 0;
  std::size_t embeds_waiting_ = 0;  // taken, and not reported as begun
  std::uint32_t unreported_ = 0;
};

}  // namespace penstock::engine
