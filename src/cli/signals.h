#pragma once

#include <signal.h>

#include "base/clock.h"

namespace penstock::cli {

/// SIGINT and SIGTERM as values to wait for, instead of handlers. Make it on the main thread before
/// any other thread starts: they inherit that the signals are blocked. SIGPIPE and SIGXFSZ are
/// ignored from then on, so that a peer that left and a limit on files are errors like others.
/// Stays in force until the process ends.
class Signals final {
 public:
  Signals() {
    sigemptyset(&set_);
    for (const int s : {SIGINT, SIGTERM}) sigaddset(&set_, s);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    for (const int s : {SIGPIPE, SIGXFSZ}) signal(s, SIG_IGN);
  }

  /// The signal that came within `wait`, or 0.
  [[nodiscard]] int next(Nanos wait) const {
    const timespec time{.tv_sec = static_cast<time_t>(wait.count() / 1'000'000'000),
                        .tv_nsec = static_cast<long>(wait.count() % 1'000'000'000)};
    const int s = sigtimedwait(&set_, nullptr, &time);
    return s > 0 ? s : 0;
  }

 private:
  sigset_t set_{};
};

}  // namespace penstock::cli
