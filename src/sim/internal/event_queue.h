#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/clock.h"

namespace penstock::sim {

/// What happens at one moment, in this order.
enum class EventKind : std::uint8_t {
  kPassEnd,
  kTransferEnd,
  kLoaded,    // what a prompt takes from lower tiers has come
  kRestart,   // a worker is away
  kGone,      // and known to be
  kWorkerUp,  // and back
  kDeadline,
  kKvEvents,
  kReplayed,  // what a router asked for
  kSnapshot,
  kReport,
  kForwarded,  // a request has come to the router that places it
  kAnswered,   // and the choice back to the one that sends it to the worker
  kReserve,    // a prompt is computed, and a decode worker has been asked for
  kTick,       // routers look at their workers
};

struct TimedEvent {
  Nanos at{0};
  EventKind kind = EventKind::kPassEnd;
  std::uint64_t order = 0;   // of scheduling: equal times and kinds stay in order
  std::uint32_t what = 0;    // a worker, a request or a message, by kind
  std::uint32_t serial = 0;  // of the pass for kPassEnd, of the try for requests
};

/// What is still to happen, soonest first. Deterministic: no two events are equal in order.
class EventQueue final {
 public:
  void push(Nanos at, EventKind kind, std::uint32_t what, std::uint32_t serial = 0) {
    heap_.push_back({at, kind, order_++, what, serial});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  TimedEvent pop() {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const TimedEvent event = heap_.back();
    heap_.pop_back();
    return event;
  }
  [[nodiscard]] Nanos next_at() const noexcept {
    return heap_.empty() ? Nanos::max() : heap_.front().at;
  }

 private:
  static bool later(const TimedEvent& a, const TimedEvent& b) noexcept {
    if (a.at != b.at) return a.at > b.at;
    if (a.kind != b.kind) return a.kind > b.kind;
    return a.order > b.order;
  }

  std::vector<TimedEvent> heap_;
  std::uint64_t order_ = 0;
};

}  // namespace penstock::sim
