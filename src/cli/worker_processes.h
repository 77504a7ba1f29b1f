#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace penstock::cli {

/// A program to be kept running.
struct ProcessCommand {
  std::vector<std::string> arguments;    // the program's path or name first
  std::vector<std::string> environment;  // NAME=VALUE, all of it
  std::string program;                   // its path; empty: the first argument
};

/// Processes that this one has started and answers for. Each has a process group of its own, so
/// that a terminal's ^C reaches this one only; standard output goes nowhere, standard error is this
/// one's. One that ends is started again, after a pause that doubles while it lives shortly. None
/// outlives this process, however that ends: the system kills them when the thread that started
/// them is gone. So there is one thread for all of it: the main one.
class WorkerProcesses final {
 public:
  static constexpr int kUsageStatus = 2;  // of a program that does not accept its arguments
  static constexpr Nanos kPauseFirst = std::chrono::milliseconds(250);
  static constexpr Nanos kPauseMax = std::chrono::seconds(30);
  static constexpr Nanos kLivedWell = std::chrono::seconds(60);  // its pause begins anew

  /// Starts them.
  WorkerProcesses(std::vector<ProcessCommand> commands, const Clock& clock);
  /// Kills those that are left.
  ~WorkerProcesses();
  WorkerProcesses(const WorkerProcesses&) = delete;
  WorkerProcesses& operator=(const WorkerProcesses&) = delete;

  /// To be called every few moments: starts again what has ended and is due.
  void look_after();
  /// Asks them to end (SIGTERM); they are not started again.
  void ask_to_end();
  /// How many run. After ask_to_end() nothing else has to be called but this.
  [[nodiscard]] std::size_t running();
  [[nodiscard]] std::uint64_t restarts() const noexcept { return restarts_; }
  /// One ended with kUsageStatus: it would do so again, and is not started again.
  [[nodiscard]] bool refused() const noexcept { return refused_; }

 private:
  struct Child {
    ProcessCommand command;
    pid_t pid = -1;  // -1: does not run
    TimePoint started;
    TimePoint start_at;  // max(): never
    Nanos pause = kPauseFirst;
  };
  void start(Child& child);
  void collect(Child& child);
  void start_later(Child& child, std::string_view why);

  const Clock& clock_;
  std::vector<Child> children_;
  bool ending_ = false;
  bool refused_ = false;
  std::uint64_t restarts_ = 0;
};

}  // namespace penstock::cli
