#include "serve/keeper.h"

#include "base/log.h"

namespace penstock::serve {
namespace {

constexpr Nanos kLookEvery = std::chrono::milliseconds(50);

/// Names no generation has (generation_legs.cc counts from 1).
constexpr std::uint64_t kCanaryIds = std::uint64_t{1} << 63;

}  // namespace

Keeper::Keeper(Dispatcher& dispatcher) : dispatcher_(dispatcher), thread_([this] { run(); }) {}

Keeper::~Keeper() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  dispatcher_.give_up_workers();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return probes_ == 0; });
  }
  for (const auto& [id, canary] : canaries_) {
    canary.engine().abort(id, engine::CancelReason::kShutdown);
  }
  while (!canaries_.empty()) {
    canary_sink_.wait_for_one();
    settle_canaries();
  }
}

void Keeper::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    look_after();
    lock.lock();
    changed_.wait_for(lock, kLookEvery, [this] { return stopping_; });
  }
}

void Keeper::look_after() {
  settle_canaries();
  for (Dispatcher::Chore& chore : dispatcher_.chores()) {
    if (chore.canary) {
      send_canary(std::move(chore.canary));
    } else {
      send_probe(chore);
    }
  }
  for (const auto& [id, canary] : canaries_) {
    if (canary.canary_lost()) canary.engine().abort(id, engine::CancelReason::kDeadline);
  }
}

void Keeper::send_probe(const Dispatcher::Chore& chore) {
  {
    const std::lock_guard lock(mutex_);
    ++probes_;
  }
  chore.probe->probe([this, instance = chore.instance](bool well) {
    dispatcher_.probed(instance, well);
    const std::lock_guard lock(mutex_);
    --probes_;
    changed_.notify_all();
  });
}

void Keeper::send_canary(Assignment place) {
  const RequestId id{kCanaryIds + ++last_canary_};
  Assignment& canary = canaries_[id];
  canary = std::move(place);
  engine::GenerateRequest request{.id = id,
                                  .sink = &canary_sink_,
                                  .prompt = {0},
                                  .sampling = {.temperature = 0},
                                  .ignore_eos = true,
                                  .max_tokens = 1};
  if (canary.engine().generate(std::move(request))) return;
  canary.refused();
  engine::Output failed{.request = id, .finish = engine::FinishReason::kError};
  canary_sink_.deliver({&failed, 1});
}

void Keeper::settle_canaries() {
  for (const auto& [id, well] : canary_sink_.take()) {
    const auto found = canaries_.find(id);
    log::debug("canary of worker {}: {}", found->second.worker(), well ? "well" : "no token");
    found->second.canary_ended(well);
    canaries_.erase(found);
  }
}

void Keeper::CanarySink::deliver(std::span<engine::Output> outputs) {
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

std::vector<std::pair<RequestId, bool>> Keeper::CanarySink::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(ended_, {});
}

void Keeper::CanarySink::wait_for_one() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !ended_.empty(); });
}

}  // namespace penstock::serve
