#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "cli/load/arrivals.h"

namespace penstock::cli::load {

/// What a run measures: sends intended in [from, until). Before is warm-up; after, nothing is sent.
struct Window {
  TimePoint begin;  // of the run
  TimePoint from;
  TimePoint until = TimePoint::max();

  [[nodiscard]] bool measures(TimePoint intended) const noexcept {
    return intended >= from && intended < until;
  }
};

/// Decides when one thread's sessions begin. Pure: knows the time only by what it is told, so a
/// test can move it by hand. Not thread safe.
///
/// A session holds a slot from next() to slot_free(). Without a slot an arrival waits, and keeps
/// its intended time: that is what makes latencies honest when the server (or this program) stalls.
class Pacer {
 public:
  struct Start {
    std::uint64_t session = 0;     // counts through the run, over all threads
    TimePoint intended;            // latencies count from here
    bool waited_for_slot = false;  // too many were in flight: not the generator's fault
  };

  virtual ~Pacer() = default;

  /// What is to begin at `now`, if anything is. Takes a slot.
  virtual std::optional<Start> next(TimePoint now) = 0;
  virtual void slot_free(TimePoint now, bool failed) = 0;

  /// When next() may have something without a slot_free() before; absent: never.
  [[nodiscard]] virtual std::optional<TimePoint> wake_at() const = 0;

  /// Nothing begins any more.
  virtual void close() = 0;
  [[nodiscard]] virtual bool closed() const = 0;
};

struct OpenPacing {
  Window window;
  std::uint64_t measured_sessions_max = std::numeric_limits<std::uint64_t>::max();
  std::size_t slots = 1;
  std::size_t thread = 0;  // begins the sessions whose number modulo `threads` is this
  std::size_t threads = 1;
};

/// Sessions begin when `arrivals` says. Every thread draws the same arrivals and takes its share.
std::unique_ptr<Pacer> make_open_pacer(const OpenPacing& pacing,
                                       std::unique_ptr<Arrivals> arrivals);

struct ClosedPacing {
  Window window;
  std::size_t slots = 1;
};

/// After a failure a slot rests so long: a server that refuses must not be asked in a tight loop.
inline constexpr Nanos kRestAfterFailure = std::chrono::milliseconds(100);

/// Each slot begins its next session when the last has ended. `next_session` is shared by all
/// threads and must outlive the pacer.
std::unique_ptr<Pacer> make_closed_pacer(const ClosedPacing& pacing,
                                         std::atomic<std::uint64_t>& next_session);

}  // namespace penstock::cli::load
