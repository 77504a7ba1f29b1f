#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "engine/engine.h"
#include "engine/remote/membership.h"
#include "fleet/health.h"
#include "serve/dispatcher.h"

namespace penstock::serve {

struct RemoteWorkersOptions {
  engine::JoinServerOptions door;
  std::uint32_t workers_max = 256;
  Nanos canary_after = std::chrono::seconds(30);    // without a token from a worker
  Nanos canary_timeout = std::chrono::seconds(30);  // for the one that it is then asked for
};

/// What is asked of a worker of another process: heartbeats are believed for a few of their gaps.
[[nodiscard]] fleet::WorkerHealth::Options health_options(const RemoteWorkersOptions& options);

/// The door for workers of other processes: lets them join a dispatcher, whose Keeper looks after
/// them. A front end that begins anew knows them again within a heartbeat, since they ask to join
/// for as long as they live.
class RemoteWorkers final : public engine::Membership {
 public:
  /// Listens at once; workers are asked to come again until serve(). Fails when it cannot listen.
  static Result<std::unique_ptr<RemoteWorkers>> start(const RemoteWorkersOptions& options,
                                                      const Clock& clock);
  ~RemoteWorkers() override;
  RemoteWorkers(const RemoteWorkers&) = delete;
  RemoteWorkers& operator=(const RemoteWorkers&) = delete;

  [[nodiscard]] std::uint16_t port() const noexcept { return door_->port(); }
  [[nodiscard]] const RemoteWorkersOptions& options() const noexcept { return options_; }

  /// The card of the first worker that has this model, once there is one. Gives up when `go_on`
  /// says so (kUnavailable).
  Result<engine::EngineInfo> wait_for_card(const std::string& model, std::uint32_t vocabulary_size,
                                           const std::function<bool()>& go_on);
  /// From now on workers join `dispatcher`.
  void serve(Dispatcher& dispatcher);
  /// Nobody joins any more. Nothing if serve() was not called.
  void stop_serving();

  Result<void> join(const engine::JoiningWorker& worker) override;
  void leave(const std::string& instance) override;

 private:
  RemoteWorkers(const RemoteWorkersOptions& options, const Clock& clock);

  Result<void> check_card(const engine::EngineInfo& info) const;

  const RemoteWorkersOptions options_;
  const Clock& clock_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string model_;  // that is wanted, while a card is waited for
  std::uint32_t vocabulary_size_ = 0;
  std::optional<engine::EngineInfo> card_;
  Dispatcher* dispatcher_ = nullptr;
  std::uint32_t using_ = 0;  // who is calling `dispatcher_`

  std::unique_ptr<engine::JoinServer> door_;
};

}  // namespace penstock::serve
