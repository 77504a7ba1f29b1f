#include "serve/remote_workers.h"

#include <fmt/format.h>

#include <utility>

namespace penstock::serve {
namespace {

constexpr Nanos kRound = std::chrono::milliseconds(50);

}  // namespace

fleet::WorkerHealth::Options health_options(const RemoteWorkersOptions& options) {
  fleet::WorkerHealth::Options health;
  health.probe_every = 3 * options.door.heartbeat;
  health.silence_max = 4 * options.door.heartbeat;
  health.gone_after = options.door.lease;
  health.canary_after = options.canary_after;
  health.canary_timeout = options.canary_timeout;
  return health;
}

RemoteWorkers::RemoteWorkers(const RemoteWorkersOptions& options, const Clock& clock)
    : options_(options), clock_(clock) {}

Result<std::unique_ptr<RemoteWorkers>> RemoteWorkers::start(const RemoteWorkersOptions& options,
                                                            const Clock& clock) {
  std::unique_ptr<RemoteWorkers> workers(new RemoteWorkers(options, clock));
  Result<std::unique_ptr<engine::JoinServer>> door =
      engine::JoinServer::start(options.door, *workers);
  if (!door) return std::unexpected(door.error());
  workers->door_ = std::move(*door);
  return workers;
}

RemoteWorkers::~RemoteWorkers() { stop_serving(); }

Result<engine::EngineInfo> RemoteWorkers::wait_for_card(const std::string& model,
                                                        std::uint32_t vocabulary_size,
                                                        const std::function<bool()>& go_on) {
  std::unique_lock lock(mutex_);
  model_ = model;
  vocabulary_size_ = vocabulary_size;
  while (!card_) {
    if (!go_on()) return fail(Code::kUnavailable, "no worker has joined");
    changed_.wait_for(lock, kRound);
  }
  return *card_;
}

void RemoteWorkers::serve(Dispatcher& dispatcher) {
  const std::lock_guard lock(mutex_);
  dispatcher_ = &dispatcher;
}

void RemoteWorkers::stop_serving() {
  std::unique_lock lock(mutex_);
  dispatcher_ = nullptr;
  changed_.wait(lock, [this] { return using_ == 0; });
}

Result<void> RemoteWorkers::join(const engine::JoiningWorker& worker) {
  Dispatcher* dispatcher = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (dispatcher_ == nullptr) {
      if (Result<void> fits = check_card(worker.info); !fits) return fits;
      card_ = worker.info;
      changed_.notify_all();
      return fail(Code::kUnavailable, "the front end is starting or stopping");
    }
    dispatcher = dispatcher_;
    ++using_;
  }
  Result<void> joined;
  if (!dispatcher->heartbeat(worker.instance, worker.draining) && !worker.draining) {
    const auto connect = [&] {
      return engine::RemoteEngine::connect({.address = worker.address,
                                            .instance = worker.instance,
                                            .secret = options_.door.secret,
                                            .info = worker.info,
                                            .tells_kv_events = worker.tells_kv_events},
                                           clock_);
    };
    joined = dispatcher->join({.instance = worker.instance,
                               .address = worker.address,
                               .labels = worker.labels,
                               .role = worker.role},
                              worker.info, connect);
  }
  const std::lock_guard lock(mutex_);
  --using_;
  changed_.notify_all();
  return joined;
}

/// Under the lock.
Result<void> RemoteWorkers::check_card(const engine::EngineInfo& info) const {
  if (model_.empty()) return fail(Code::kUnavailable, "the front end is starting");
  if (info.model == model_ && info.vocabulary_size == vocabulary_size_) return {};
  return fail(
      Code::kInvalidArgument,
      fmt::format("the worker does not fit: its model is {} with {} tokens, here {} with {}",
                  info.model, info.vocabulary_size, model_, vocabulary_size_));
}

void RemoteWorkers::leave(const std::string& instance) {
  Dispatcher* dispatcher = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (dispatcher_ == nullptr) return;
    dispatcher = dispatcher_;
    ++using_;
  }
  dispatcher->leave(instance);
  const std::lock_guard lock(mutex_);
  --using_;
  changed_.notify_all();
}

}  // namespace penstock::serve
