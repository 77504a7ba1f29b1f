#pragma once

#include <chrono>
#include <cstdint>

#include "base/clock.h"

namespace penstock::sim {

/// What goes wrong in a run, drawn from Setup::seed. As it stands: nothing.
///
/// A worker that restarts loses its cache and its requests, is away for a while, and joins again as
/// another instance. A request that was lost before its first token is tried again elsewhere; one
/// that has no try left, or whose client has seen tokens, has failed. So has one that has not ended
/// by its deadline. One that finds no worker on arrival is shed.
struct Faults {
  Nanos restart_every{0};  // mean, of each worker; 0: never
  Nanos restart_takes = std::chrono::seconds(10);
  std::uint32_t retries_max = 2;
  Nanos deadline{0};  // of a request, from its arrival on; 0: none

  // Of each message about a worker's cache, to each router by itself.
  double event_loss = 0;         // is lost, an answer to a question too; [0, 1)
  double event_duplication = 0;  // comes twice
  double event_lateness = 0;     // comes late, by up to event_late: then others overtake it
  Nanos event_late = std::chrono::milliseconds(200);

  double slow_workers = 0;  // share of workers whose passes take so many times as long:
  double slowdown = 3;      // >= 1

  [[nodiscard]] bool any() const noexcept {
    return restart_every > Nanos::zero() || deadline > Nanos::zero() || event_loss > 0 ||
           event_duplication > 0 || event_lateness > 0 || slow_workers > 0;
  }
};

}  // namespace penstock::sim
