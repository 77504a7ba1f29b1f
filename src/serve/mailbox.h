#pragma once

#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "net/loop.h"

namespace penstock::serve {

/// Carries engines' outputs to one event loop. An engine's step costs one lock and at most one
/// wake-up, however many requests it moved. What waits here is bounded by what was asked for: a
/// request's outputs are at most its max_tokens.
class Mailbox final : public engine::OutputSink {
 public:
  using Handler = std::move_only_function<void(std::vector<engine::Output>&)>;

  /// `handler` runs on `loop` with everything that came since it last ran.
  Mailbox(net::Loop& loop, Handler handler) : loop_(loop), handler_(std::move(handler)) {}

  void deliver(std::span<engine::Output> outputs) override {
    bool wake = false;
    {
      const std::lock_guard lock(mutex_);
      waiting_.insert(waiting_.end(), std::make_move_iterator(outputs.begin()),
                      std::make_move_iterator(outputs.end()));
      wake = !std::exchange(posted_, true);
    }
    if (wake) loop_.post([this] { drain(); });
  }

 private:
  void drain() {
    {
      const std::lock_guard lock(mutex_);
      posted_ = false;
      taken_.swap(waiting_);
    }
    handler_(taken_);
    taken_.clear();
  }

  net::Loop& loop_;
  Handler handler_;
  std::mutex mutex_;
  std::vector<engine::Output> waiting_;
  bool posted_ = false;
  std::vector<engine::Output> taken_;  // the loop's
};

}  // namespace penstock::serve
