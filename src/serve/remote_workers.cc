#include "serve/remote_workers.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace penstock::serve {
namespace {

constexpr Nanos kRound = std::chrono::milliseconds(50);

/// Names no generation has (generation.cc counts from 1).
constexpr std::uint64_t kCanaryIds = std::uint64_t{1} << 63;

fleet::Role role_of(engine::WorkerRole role) {
  switch (role) {
    case engine::WorkerRole::kBoth: return fleet::Role::kBoth;
    case engine::WorkerRole::kPrefill: return fleet::Role::kPrefill;
    case engine::WorkerRole::kDecode: return fleet::Role::kDecode;
  }
  return fleet::Role::kBoth;
}

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
  {
    const std::lock_guard lock(mutex_);
    dispatcher_ = &dispatcher;
  }
  keeper_ = std::thread([this] { run(); });
}

void RemoteWorkers::stop_serving() {
  Dispatcher* dispatcher = nullptr;
  {
    const std::lock_guard lock(mutex_);
    dispatcher = std::exchange(dispatcher_, nullptr);
    stopping_ = true;
  }
  changed_.notify_all();
  if (dispatcher == nullptr) return;
  keeper_.join();
  dispatcher->give_up_workers();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return using_ == 0 && probes_ == 0; });
  }
  while (!canaries_.empty()) {
    canary_sink_.wait_for_one();
    settle_canaries(*dispatcher);
  }
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
                               .role = role_of(worker.role)},
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

void RemoteWorkers::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    Dispatcher& dispatcher = *dispatcher_;
    lock.unlock();
    look_after(dispatcher);
    lock.lock();
    changed_.wait_for(lock, kRound, [this] { return stopping_; });
  }
}

void RemoteWorkers::look_after(Dispatcher& dispatcher) {
  settle_canaries(dispatcher);
  for (Dispatcher::Chore& chore : dispatcher.chores()) {
    if (chore.check == fleet::WorkerHealth::Check::kCanary) {
      send_canary(chore);
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      ++probes_;
    }
    chore.engine->probe([this, &dispatcher, instance = chore.instance](bool well) {
      dispatcher.probed(instance, well);
      const std::lock_guard lock(mutex_);
      --probes_;
      changed_.notify_all();
    });
  }
  const TimePoint now = clock_.now();
  for (const auto& [id, canary] : canaries_) {
    if (now - canary.sent < options_.canary_timeout) continue;
    canary.engine->abort(id, engine::CancelReason::kDeadline);
  }
}

void RemoteWorkers::send_canary(Dispatcher::Chore& chore) {
  const RequestId id{kCanaryIds + ++last_canary_};
  Canary& canary = canaries_[id];
  canary = {.instance = std::move(chore.instance),
            .engine = chore.engine,
            .place = std::move(chore.place),
            .sent = clock_.now()};
  engine::GenerateRequest request{.id = id,
                                  .sink = &canary_sink_,
                                  .prompt = {0},
                                  .sampling = {.temperature = 0},
                                  .ignore_eos = true,
                                  .max_tokens = 1};
  if (canary.engine->generate(std::move(request))) return;
  canary.place.refused();
  engine::Output failed{.request = id, .finish = engine::FinishReason::kError};
  canary_sink_.deliver({&failed, 1});
}

void RemoteWorkers::settle_canaries(Dispatcher& dispatcher) {
  for (const auto& [id, well] : canary_sink_.take()) {
    const auto found = canaries_.find(id);
    log::debug("canary of worker {}: {}", found->second.instance, well ? "well" : "no token");
    dispatcher.canary_ended(found->second.instance, well);
    canaries_.erase(found);
  }
}

void RemoteWorkers::CanarySink::deliver(std::span<engine::Output> outputs) {
  const std::lock_guard lock(mutex_);
  for (const engine::Output& output : outputs) {
    bool& token = tokens_[output.request];
    token |= output.token.has_value();
    if (!output.finish) continue;
    ended_.emplace_back(output.request, token);
    tokens_.erase(output.request);
  }
  changed_.notify_all();
}

std::vector<std::pair<RequestId, bool>> RemoteWorkers::CanarySink::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

void RemoteWorkers::CanarySink::wait_for_one() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ended_.empty(); });
}

}  // namespace penstock::serve
