#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
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

struct Abort {
  RequestId id;
  CancelReason reason = CancelReason::kClientGone;
};

/// What other threads have asked of an engine's thread since it last looked, each list in order.
struct InboxBatch {
  std::vector<GenerateRequest> requests;
  std::vector<Abort> aborts;  // of requests given out before or in this batch; each at most once
  std::vector<EmbedJob> embeds;

  void clear();
};

/// The door between an engine's one thread and everybody else. It bounds what waits, by
/// construction: requests by the engine's own queue, embeddings by the same number, aborts by the
/// requests that live. The engine's thread is signalled only when it is idle.
///
/// Thread: any for submit(), abort(), close() and unreported(); the engine's for the rest.
class RequestInbox final {
 public:
  struct Limits {
    std::uint32_t sequences_max = 1;  // requests that run at once
    std::uint32_t queue_max = 0;      // requests that wait beyond those, and embeddings that wait
    int retry_after_s = 1;            // told to whom is refused
  };

  explicit RequestInbox(const Limits& limits) : limits_(limits) {}

  /// Fails with kOverloaded when as many wait as may, kUnavailable after close(), kInvalidArgument
  /// when a request of this id still lives.
  Result<void> submit(GenerateRequest request);
  Result<void> submit(EmbedRequest request, EmbedDone done);

  /// Unknown and finished ids are ignored, and so is the second abort of one.
  void abort(RequestId id, CancelReason reason);

  /// Nothing is taken in from now on, and the engine's thread wakes.
  void close();

  /// True once there may be something to take or the inbox is closed. Costs one load.
  [[nodiscard]] bool attention() const noexcept {
    return attention_.load(std::memory_order_acquire);
  }

  /// Adds what has come in to `batch`. False: closed (and this was the rest).
  bool take(InboxBatch& batch);

  /// Like take(), but waits until there is something or the inbox is closed.
  bool wait(InboxBatch& batch);

  /// Sleeps for `time`; what comes in meanwhile does not end it. False: closed, at once.
  bool sleep(Nanos time);

  /// What the engine does with the requests it took: how many run and wait now, and which have
  /// ended since the last report. Call before their last Output is delivered. Until a request
  /// appears here it counts as waiting.
  void report(std::uint32_t running, std::uint32_t waiting, std::span<const RequestId> ended);

  /// Requests accepted and not yet in a report. Those in it that run or wait come on top.
  [[nodiscard]] std::uint32_t unreported() const;

 private:
  [[nodiscard]] Error overloaded(const char* what) const;
  void wake(std::unique_lock<std::mutex>& lock);
  void hand_over(InboxBatch& batch);

  const Limits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> attention_ = false;
  bool closed_ = false;
  bool idle_ = false;  // the engine's thread is in wait()
  InboxBatch batch_;
  std::unordered_map<RequestId, bool> live_;  // id -> its abort has been asked for
  std::uint32_t running_ = 0;                 // as last reported
  std::uint32_t waiting_ = 0;
  std::uint32_t unreported_ = 0;
};

}  // namespace penstock::engine
