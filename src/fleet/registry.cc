#include "fleet/registry.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/log.h"

namespace penstock::fleet {

Registry::Registry(Ledger& ledger, kv::PrefixIndex& index, const Options& options)
    : ledger_(ledger), index_(index), options_(options) {}

Result<Slot> Registry::join(const WorkerInfo& info, TimePoint now,
                            const WorkerHealth::Options& health) {
  if (info.instance.empty()) return fail(Code::kInvalidArgument, "a worker needs an instance");
  for (Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] != nullptr && workers_[slot]->info.instance == info.instance) return slot;
  }
  for (Slot slot = 0; slot < workers_.size(); ++slot) {
    const bool replaced = workers_[slot] != nullptr && !info.address.empty() &&
                          workers_[slot]->info.address == info.address;
    if (replaced) remove(slot);
  }
  const std::optional<Slot> slot = ledger_.add(WorkerState::kStarting, info.role);
  if (!slot) return fail(Code::kOverloaded, "there is no room for another worker");
  if (*slot >= workers_.size()) workers_.resize(*slot + 1);
  workers_[*slot] = std::make_unique<Worker>(Worker{
      .info = info, .health = {now, health}, .follower = {index_, *slot, options_.follower}});
  return *slot;
}

void Registry::leave(std::string_view instance) {
  for (Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] != nullptr && workers_[slot]->info.instance == instance) remove(slot);
  }
}

const WorkerInfo* Registry::info(Slot slot) const noexcept {
  const Worker* worker = worker_at(slot);
  return worker == nullptr ? nullptr : &worker->info;
}

WorkerHealth* Registry::health(Slot slot) noexcept {
  Worker* worker = worker_at(slot);
  return worker == nullptr ? nullptr : &worker->health;
}

KvFollower* Registry::follower(Slot slot) noexcept {
  Worker* worker = worker_at(slot);
  return worker == nullptr ? nullptr : &worker->follower;
}

bool Registry::has_labels(Slot slot, std::span<const Labels::value_type> wanted) const noexcept {
  const Worker* worker = worker_at(slot);
  return worker != nullptr && std::ranges::all_of(wanted, [&](const auto& label) {
           return std::ranges::find(worker->info.labels, label) != worker->info.labels.end();
         });
}

void Registry::tick(TimePoint now, std::vector<Due>& due) {
  for (Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr) continue;
    Worker& worker = *workers_[slot];
    const WorkerHealth::Check check = worker.health.next(now);
    const WorkerState state = worker.health.state();
    if (state == WorkerState::kGone) {
      remove(slot);
      continue;
    }
    if (!std::exchange(worker.suspect, state == WorkerState::kSuspect) && worker.suspect) {
      log::warn("worker {} is suspect ({})", worker.info.instance,
                to_string(worker.health.suspicion()));
    }
    ledger_.set_state(slot, state);
    ledger_.set_trust(slot, worker.follower.trust());
    if (check != WorkerHealth::Check::kNothing) due.push_back({slot, check});
  }
}

/// Its slot is free from now on, and known to nobody; what it held is forgotten.
void Registry::remove(Slot slot) {
  ledger_.set_state(slot, WorkerState::kGone);
  ledger_.restarted(slot);
  index_.cleared(slot);
  workers_[slot].reset();
}

}  // namespace penstock::fleet
