#pragma once

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "cli/signals.h"

namespace penstock::cli {

/// Ends the process when its threads do not: one that is stuck inside llama.cpp cannot be told.
/// While this lives the process has kEndWithin, and one second from the next signal on (`timeout`
/// and some supervisors send each signal twice at once).
class LastResort final {
 public:
  static constexpr Nanos kEndWithin = std::chrono::seconds(10);

  LastResort(const Signals& signals, const Clock& clock)
      : thread_([this, &signals, &clock, ends_at = clock.now() + kEndWithin]() mutable {
          while (!over_) {
            const bool told = signals.next(std::chrono::milliseconds(50)) != 0;
            if (told) ends_at = std::min(ends_at, clock.now() + std::chrono::seconds(1));
            if (over_ || clock.now() < ends_at) continue;
            log::error("a thread does not end; leaving without it");
            std::_Exit(1);
          }
        }) {}
  ~LastResort() {
    over_ = true;
    thread_.join();
  }
  LastResort(const LastResort&) = delete;
  LastResort& operator=(const LastResort&) = delete;

 private:
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace penstock::cli
