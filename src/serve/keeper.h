#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "serve/dispatcher.h"

namespace penstock::serve {

/// Looks after the workers of a dispatcher, on a thread of its own: probes, canaries, and the ends
/// of those that are gone.
class Keeper final {
 public:
  /// Begins at once. `dispatcher` outlives this.
  explicit Keeper(Dispatcher& dispatcher);
  /// What was given to workers of other processes ends; none may join any more.
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

 private:
  class CanarySink final : public engine::OutputSink {
   public:
    void deliver(std::span<engine::Output> outputs) override;
    /// Of those that have ended since: which, and whether there was a token.
    std::vector<std::pair<RequestId, bool>> take();
    void wait_for_one();

   private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<std::pair<RequestId, bool>> ended_;
    std::unordered_map<RequestId, bool> tokens_;
  };

  void run();
  void look_after();
  void send_probe(const Dispatcher::Chore& chore);
  void send_canary(Assignment place);
  void settle_canaries();

  Dispatcher& dispatcher_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint32_t probes_ = 0;  // under way
  bool stopping_ = false;

  // The thread's.
  CanarySink canary_sink_;
  // One token each, asked of workers that have given none for long, or whose requests failed.
  std::unordered_map<RequestId, Assignment> canaries_;
  std::uint64_t last_canary_ = 0;

  std::thread thread_;
};

}  // namespace penstock::serve
