#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace penstock::engine {

/// What a pump moves: something with news to send once, whenever it says so.
class Pumped {
 public:
  /// The pump's thread, once for each time it was marked. May delete this.
  virtual void flush() = 0;

 protected:
  ~Pumped() = default;
};

/// What a pump moves by itself, again and again.
class Watch {
 public:
  virtual ~Watch() = default;
  /// The pump's thread: sends what is new, if anything is. False: it is over, and is deleted.
  virtual bool step(TimePoint now) = 0;
};

/// The one thread of an engine's server that starts what is sent. Others mark what has something to
/// send and go on.
class Pump final {
 public:
  explicit Pump(const Clock& clock) : clock_(clock), thread_([this] { run(); }) {}
  /// Nothing may be marked any more, nor any watch be alive to its peer.
  ~Pump() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;

  void mark(Pumped& one) {
    {
      const std::lock_guard lock(mutex_);
      marked_.push_back(&one);
    }
    changed_.notify_one();
  }
  void add(std::unique_ptr<Watch> watch) {
    {
      const std::lock_guard lock(mutex_);
      added_.push_back(std::move(watch));
    }
    changed_.notify_one();
  }
  /// A watch may have something to do.
  void wake() {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    changed_.notify_one();
  }

 private:
  /// How long news may wait that nobody tells of: a pass that begins, blocks that are evicted.
  static constexpr Nanos kLook = std::chrono::milliseconds(10);

  void run() {
    std::vector<Pumped*> marked;
    std::vector<std::unique_ptr<Watch>> watches;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        const auto news = [this] {
          return stopping_ || woken_ || !marked_.empty() || !added_.empty();
        };
        if (watches.empty()) {
          changed_.wait(lock, news);
        } else {
          changed_.wait_for(lock, kLook, news);
        }
        if (stopping_ && marked_.empty()) return;
        woken_ = false;
        marked.swap(marked_);
        for (auto& watch : added_) watches.push_back(std::move(watch));
        added_.clear();
      }
      // What an output announces had better be known when it comes: reports and KV events first.
      const TimePoint now = clock_.now();
      std::erase_if(watches, [&](const auto& watch) { return !watch->step(now); });
      for (Pumped* one : marked) one->flush();
      marked.clear();
    }
  }

  const Clock& clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Pumped*> marked_;
  std::vector<std::unique_ptr<Watch>> added_;
  bool woken_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace penstock::engine
