#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "base/clock.h"

namespace penstock::net {

/// One event loop on one thread. It owns its connections, timers and whatever handlers keep for
/// them; other threads reach it only through post(). Never moved.
class Loop {
 public:
  virtual ~Loop() = default;

  [[nodiscard]] virtual std::size_t index() const noexcept = 0;
  [[nodiscard]] virtual bool in_loop_thread() const noexcept = 0;

  /// Runs `task` on the loop's thread, after what was posted before it. Thread: any. The caller
  /// bounds how much it posts (one pending task that drains a queue, not one a message). Once the
  /// loop has stopped, tasks are destroyed without having run.
  virtual void post(std::move_only_function<void()> task) = 0;

  /// Cancels its timer when destroyed, also from inside the timer's own task. Loop thread only, or
  /// any thread once the loop has stopped.
  class Timer {
   public:
    virtual ~Timer() = default;
  };

  /// Runs `task` once after `delay`, unless the returned timer is destroyed first. Loop thread
  /// only.
  [[nodiscard]] virtual std::unique_ptr<Timer> after(Nanos delay,
                                                     std::move_only_function<void()> task) = 0;
};

}  // namespace penstock::net
