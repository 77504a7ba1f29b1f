#include "fleet/registry.h"

#include <algorithm>

#include "base/log.h"

namespace penstock::fleet {

Registry::Registry(Ledger& ledger, kv::PrefixIndex& index, const Options& options)
    : ledger_(ledger), index_(index), options_(options) {}

Result<Slot> Registry::join(const WorkerInfo& info, TimePoint now) {
  if (info.instance.empty() || info.ranks == 0) {
    return fail(Code::kInvalidArgument, "a worker needs an instance and at least one rank");
  }
  for (const auto& worker : workers_) {
    if (worker->info.instance == info.instance) return worker->slots.front();
  }
  const auto old = std::ranges::find_if(workers_, [&](const auto& worker) {
    return !info.address.empty() && worker->info.address == info.address;
  });
  if (old != workers_.end()) remove(**old);

  auto worker = std::make_unique<Worker>(
      Worker{.info = info, .slots = {}, .health = {now, options_.health}, .followers = {}});
  while (worker->slots.size() < info.ranks) {
    const std::optional<Slot> slot = ledger_.add(WorkerState::kStarting, info.role);
    if (!slot) {
      remove(*worker);
      return fail(Code::kOverloaded, "there is no room for another worker");
    }
    if (*slot >= by_slot_.size()) by_slot_.resize(*slot + 1);
    by_slot_[*slot] = worker.get();
    worker->slots.push_back(*slot);
    worker->followers.push_back(std::make_unique<KvFollower>(index_, *slot, options_.follower));
  }
  workers_.push_back(std::move(worker));
  return workers_.back()->slots.front();
}

void Registry::leave(std::string_view instance) {
  const auto found = std::ranges::find_if(
      workers_, [&](const auto& worker) { return worker->info.instance == instance; });
  if (found != workers_.end()) remove(**found);
}

void Registry::listed(std::span<const WorkerInfo> all, TimePoint now) {
  std::vector<std::string> gone;
  for (const auto& worker : workers_) {
    if (std::ranges::find(all, worker->info.instance, &WorkerInfo::instance) == all.end()) {
      gone.push_back(worker->info.instance);
    }
  }
  for (const std::string& instance : gone) leave(instance);
  for (const WorkerInfo& info : all) {
    if (const Result<Slot> joined = join(info, now); !joined) {
      log::warn("worker {} cannot join: {}", info.instance, joined.error().message);
    }
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
  if (worker == nullptr) return nullptr;
  const auto rank = std::ranges::find(worker->slots, slot) - worker->slots.begin();
  return worker->followers[static_cast<std::size_t>(rank)].get();
}

bool Registry::matches(Slot slot, const WorkerFilter& filter) const noexcept {
  const Worker* worker = worker_at(slot);
  if (worker == nullptr) return false;
  const WorkerInfo& info = worker->info;
  const auto has = [](const auto& list, const auto& wanted) {
    return std::ranges::find(list, wanted) != list.end();
  };
  if (!filter.model.empty() && filter.model != info.model) return false;
  if (!filter.adapter.empty() && !has(info.adapters, filter.adapter)) return false;
  if (filter.rank && (*filter.rank >= info.ranks || worker->slots[*filter.rank] != slot)) {
    return false;
  }
  return std::ranges::all_of(filter.labels,
                             [&](const auto& label) { return has(info.labels, label); });
}

bool Registry::idle(Slot slot) const noexcept {
  const Worker* worker = worker_at(slot);
  return worker == nullptr || std::ranges::all_of(worker->slots, [&](Slot of) {
           return ledger_.view().requests[of] == 0;
         });
}

void Registry::tick(TimePoint now, std::vector<Due>& due) {
  std::vector<std::string> gone;
  for (const auto& worker : workers_) {
    const WorkerHealth::Check check = worker->health.next(now);
    const WorkerState state = worker->health.state();
    if (state == WorkerState::kSuspect && ledger_.view().state[worker->slots.front()] != state) {
      log::warn("worker {} is suspect ({})", worker->info.instance,
                to_string(worker->health.suspicion()));
    }
    if (state == WorkerState::kGone) {
      gone.push_back(worker->info.instance);
      continue;
    }
    for (std::size_t rank = 0; rank < worker->slots.size(); ++rank) {
      ledger_.set_state(worker->slots[rank], state);
      ledger_.set_trust(worker->slots[rank], worker->followers[rank]->trust());
    }
    if (check != WorkerHealth::Check::kNothing) due.push_back({worker->slots.front(), check});
  }
  for (const std::string& instance : gone) leave(instance);
}

Registry::Worker* Registry::worker_at(Slot slot) noexcept {
  return slot < by_slot_.size() ? by_slot_[slot] : nullptr;
}

const Registry::Worker* Registry::worker_at(Slot slot) const noexcept {
  return slot < by_slot_.size() ? by_slot_[slot] : nullptr;
}

/// Its slots are free from now on, and known to nobody; what they held is forgotten.
void Registry::remove(Worker& worker) {
  for (const Slot slot : worker.slots) {
    ledger_.set_state(slot, WorkerState::kGone);
    ledger_.restarted(slot);
    index_.cleared(slot);
    by_slot_[slot] = nullptr;
  }
  std::erase_if(workers_, [&](const auto& one) { return one.get() == &worker; });
}

}  // namespace penstock::fleet
