#pragma once

#include <functional>
#include <future>

#include "net/loop.h"

namespace penstock::cli::load {

/// Runs `task` on the loop and waits for it. Not from the loop's own thread.
inline void run_on(net::Loop& loop, const std::function<void()>& task) {
  std::promise<void> done;
  loop.post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace penstock::cli::load
