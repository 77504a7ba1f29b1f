#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cli/load/generator.h"
#include "cli/load/options.h"
#include "cli/load/prompts.h"
#include "cli/load/statistics.h"
#include "net/http_client.h"

namespace penstock::cli::load {

/// What a run came to. A value.
struct RunResult {
  Statistics statistics;
  Nanos window_time{};       // what the rates are over; 0: it never began
  bool interrupted = false;  // stop() cut it short
};

/// One run from its first request on, with threads of its own. Made, asked and destroyed on one
/// thread. The order is: construct, wait_for() until it says true (or stop()), collect().
class LoadRun final {
 public:
  /// Starts at once. Everything passed in must outlive the run; `trace` is needed (and not empty)
  /// when the pacing is kTrace.
  LoadRun(const LoadOptions& options, const PromptSource& prompts,
          const std::vector<TraceRequest>& trace, const Clock& clock);
  ~LoadRun();
  LoadRun(const LoadRun&) = delete;
  LoadRun& operator=(const LoadRun&) = delete;

  /// True once everything was sent and has ended; waits for that at most `time`.
  bool wait_for(Nanos time);
  /// Cuts off what is in flight. wait_for() is true soon after.
  void stop();
  /// Only when wait_for() said true.
  [[nodiscard]] RunResult collect() const;

  [[nodiscard]] const LiveCounters& live() const noexcept { return context_.live; }
  [[nodiscard]] const Window& window() const noexcept { return context_.window; }

 private:
  void on_generator_done();

  RunContext context_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  std::size_t running_ = 0;  // generators; under mutex_
  TimePoint ended_;          // under mutex_
  bool interrupted_ = false;
  std::vector<std::unique_ptr<net::LoopThread>> threads_;
  std::vector<std::unique_ptr<Generator>> generators_;  // one a thread, each destroyed on its own
};

}  // namespace penstock::cli::load
