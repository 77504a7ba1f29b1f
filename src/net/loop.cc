#include "net/loop.h"

#include <boost/asio/post.hpp>
#include <utility>

#include "base/check.h"
#include "net/internal/asio_loop.h"

namespace penstock::net {

class AsioLoop::TimerImpl final : public Timer {
 public:
  TimerImpl(Timers& timers, TimePoint due, std::move_only_function<void()> task)
      : timers_(timers), task_(std::move(task)), place_(timers.emplace(due, this)) {}
  ~TimerImpl() override {
    if (waiting_) timers_.erase(place_);
  }
  TimerImpl(const TimerImpl&) = delete;
  TimerImpl& operator=(const TimerImpl&) = delete;

  /// Leaves the map and hands out the task, which may destroy this timer.
  [[nodiscard]] std::move_only_function<void()> take() {
    timers_.erase(place_);
    waiting_ = false;
    return std::move(task_);
  }

 private:
  Timers& timers_;
  std::move_only_function<void()> task_;
  Timers::iterator place_;
  bool waiting_ = true;
};

AsioLoop::AsioLoop(std::size_t index)
    : index_(index), context_(1), work_(context_.get_executor()), wake_(context_) {}

AsioLoop::~AsioLoop() = default;

bool AsioLoop::in_loop_thread() const noexcept {
  return work_.get_executor().running_in_this_thread();
}

void AsioLoop::post(std::move_only_function<void()> task) {
  if (stopped_.load(std::memory_order_acquire)) return;
  asio::post(context_, std::move(task));
}

std::unique_ptr<Loop::Timer> AsioLoop::after(Nanos delay, std::move_only_function<void()> task) {
  const TimePoint now = std::chrono::steady_clock::now();
  const TimePoint due = delay < TimePoint::max() - now ? now + delay : TimePoint::max();
  auto timer = std::make_unique<TimerImpl>(timers_, due, std::move(task));
  arm();
  return timer;
}

void AsioLoop::arm() {
  // Waking too early (the earliest timer was cancelled meanwhile) is harmless: fire() finds
  // nothing due. So only a new earliest timer touches the kernel's.
  if (timers_.empty() || timers_.begin()->first >= armed_for_) return;
  armed_for_ = timers_.begin()->first;
  wake_.expires_at(armed_for_);
  wake_.async_wait([this](ErrorCode failed) {
    if (failed) return;  // replaced by an earlier one, or the loop ends
    armed_for_ = TimePoint::max();
    fire();
    arm();
  });
}

void AsioLoop::fire() {
  // `now` is read once, so tasks that start new timers cannot keep this loop going for ever.
  const TimePoint now = std::chrono::steady_clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto task = timers_.begin()->second->take();
    task();
  }
}

void AsioLoop::run() { context_.run(); }

void AsioLoop::stop() {
  stopped_.store(true, std::memory_order_release);
  context_.stop();
}

}  // namespace penstock::net
