// What a Dispatcher knows of its workers: who there is, and how well.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "serve/dispatcher.h"

namespace penstock::serve {
namespace {

constexpr kv::Slot kNobody = ~kv::Slot{0};
constexpr Nanos kUnwatched = std::chrono::seconds(1);  // between chores()

/// Why a worker cannot serve what the others serve; empty: it can. Blocks and prompts must be cut
/// alike; limits may be wider.
std::string misfit(const engine::EngineInfo& ours, const engine::EngineInfo& its) {
  const auto differs = [](const char* what, const auto& it, const auto& we) {
    return it == we ? std::string() : fmt::format("its {} is {}, here {}", what, it, we);
  };
  std::string why = differs("model", its.model, ours.model);
  if (why.empty()) why = differs("vocabulary", its.vocabulary_size, ours.vocabulary_size);
  if (why.empty()) why = differs("block size", its.block_tokens, ours.block_tokens);
  if (why.empty()) {
    why = differs("least number of computed tokens (--exact)", its.computed_tokens_min,
                  ours.computed_tokens_min);
  }
  const bool exact = ours.computed_tokens_min > 1;
  if (why.empty() && exact && its.kv_compatibility_key != ours.kv_compatibility_key) {
    why =
        "its --kv-type, build or CPU is another, and with --exact all workers give the same tokens";
  }
  if (why.empty()) why = differs("embedding size", its.embedding_size, ours.embedding_size);
  if (why.empty() && its.context_tokens_max < ours.context_tokens_max) {
    why = differs("context", its.context_tokens_max, ours.context_tokens_max);
  }
  return why;
}

}  // namespace

/// A worker of this process: there from the beginning, without a name that others could use. Nobody
/// has to say that it lives; what it makes of requests tells whether it is well.
void Dispatcher::add_own(std::unique_ptr<engine::Engine> engine, const DispatchOptions& options) {
  const std::size_t i = workers_.size();
  const fleet::Role wanted = i < options.roles.size() ? options.roles[i] : fleet::Role::kBoth;
  fleet::WorkerHealth::Options health = options.health;
  health.silence_max = health.canary_after = health.gone_after = Nanos::max();
  const TimePoint now = clock_.now();
  const Result<kv::Slot> slot = registry_.join({.instance = fmt::format("of this process {}", i),
                                                .address = {},
                                                .labels = options.labels,
                                                .role = role_for(engine->info(), wanted)},
                                               now, health);
  CHECK(slot.has_value() && *slot == i);
  Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
  worker.engine = std::move(engine);
  follow(*slot);
  registry_.health(*slot)->probed(true, now);
  show_state(*slot);
}

/// What the worker says is taken in from the next choice on.
void Dispatcher::follow(kv::Slot slot) {
  Worker& worker = *workers_[slot];
  if (const kv::EventSource* source = worker.engine->kv_events(); source != nullptr) {
    worker.cache = std::make_unique<KvReader>(*source, *registry_.follower(slot));
  }
  worker.engine->announce_changes_to(changes_, slot);
  changes_.set(slot);
}

Result<void> Dispatcher::join(const fleet::WorkerInfo& who, const engine::EngineInfo& its,
                              const Connect& connect) {
  if (const std::string why = misfit(info_, its); !why.empty()) {
    return fail(Code::kInvalidArgument, fmt::format("the worker does not fit: {}", why));
  }
  const std::lock_guard lock(mutex_);
  fleet::WorkerInfo known = who;
  if (const std::string* process = find_label(who.labels, kProcessLabel)) {
    if (const auto set = set_roles_.find(*process); set != set_roles_.end()) {
      known.role = set->second;
    }
  }
  const fleet::Role wanted = std::exchange(known.role, role_for(its, known.role));
  if (wanted == fleet::Role::kPrefill && known.role != wanted) {
    return fail(Code::kInvalidArgument,
                "the worker does not fit: its KV is of no use to the others here (another model, "
                "build, CPU or setting), or it shares none");
  }
  fleet::WorkerHealth::Options health = health_;
  if (its.embeds_only) health.canary_after = Nanos::max();  // it gives no tokens
  const Result<kv::Slot> slot = registry_.join(known, clock_.now(), health);
  retire_gone();  // the address may have been another's
  if (!slot && slot.error().code == Code::kOverloaded) {
    return fail(Code::kOverloaded,
                fmt::format("there is no room for another worker: {} have joined, as many as this "
                            "front end lets in (serve --workers-max)",
                            joins_max_));
  }
  if (!slot) return std::unexpected(slot.error());
  if (*slot >= workers_.size()) workers_.resize(*slot + 1);
  if (workers_[*slot] != nullptr) return {};  // it asked twice at once
  auto worker = std::make_unique<Worker>();
  std::unique_ptr<engine::RemoteEngine> engine = connect();
  worker->remote = engine.get();
  worker->engine = std::move(engine);
  worker->instance = who.instance;
  workers_[*slot] = std::move(worker);
  follow(*slot);
  agree_on_tiers_key();
  router_.forget(*slot);
  registry_.health(*slot)->heartbeat(clock_.now());
  show_state(*slot);
  log::info("worker {} joined: {} at {}, role {}", *slot, who.instance, who.address,
            to_string(known.role));
  if (!its.kv_tiers_key.empty() && its.kv_tiers_key != tiers_key_) {
    log::info(
        "worker {}: its lower tiers hold KV of another build, CPU or setting than those that are "
        "looked at: what is there is not foreseen",
        *slot);
  }
  return {};
}

bool Dispatcher::heartbeat(std::string_view instance, bool draining) {
  const std::lock_guard lock(mutex_);
  const kv::Slot slot = slot_of(instance);
  if (slot == kNobody) return false;
  fleet::WorkerHealth& health = *registry_.health(slot);
  health.heartbeat(clock_.now());
  if (draining) health.drain();
  show_state(slot);
  return true;
}

void Dispatcher::leave(std::string_view instance) {
  const std::lock_guard lock(mutex_);
  const kv::Slot slot = slot_of(instance);
  if (slot == kNobody) return;
  log::info("worker {} left: {}", slot, instance);
  registry_.leave(instance);
  retire_gone();
}

void Dispatcher::probed(std::string_view instance, bool well) {
  const std::lock_guard lock(mutex_);
  const kv::Slot slot = slot_of(instance);
  if (slot == kNobody) return;
  registry_.health(slot)->probed(well, clock_.now());
  show_state(slot);
}

std::vector<Dispatcher::Chore> Dispatcher::chores() {
  std::vector<std::unique_ptr<Worker>> unused;  // their engines end without the lock
  std::vector<engine::RemoteEngine*> gone;
  std::vector<Chore> chores;
  {
    const std::lock_guard lock(mutex_);
    const TimePoint now = clock_.now();
    catch_up(now);
    if (const Nanos since = now - std::exchange(chores_at_, now); since >= kUnwatched) {
      for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
        if (workers_[slot] != nullptr) registry_.health(slot)->unwatched(since, now);
      }
    }
    std::vector<fleet::Registry::Due> due;
    registry_.tick(now, due);
    retire_gone();
    for (kv::Slot slot = 0; slot < workers_.size(); ++slot) show_state(slot);
    show_who_hangs(now);
    requests_ever_max_ = std::max(requests_ever_max_, taken_at_once());
    for (const auto& [slot, check] : due) {
      if (slot >= workers_.size() || workers_[slot] == nullptr) continue;
      Worker& worker = *workers_[slot];
      if (check == fleet::WorkerHealth::Check::kCanary) {
        fleet::Lease lease = ledger_.charge(
            slot, {.prompt_tokens = 1, .uncached_tokens = 1, .new_blocks = 1, .locals = {}});
        chores.emplace_back().canary = assign(slot, std::move(lease), now);
      } else if (worker.remote != nullptr) {
        chores.push_back({.instance = worker.instance, .probe = worker.remote, .canary = {}});
      } else {
        registry_.health(slot)->probed(true, now);  // its process is this one
        show_state(slot);
      }
    }
    for (const std::unique_ptr<Worker>& worker : retired_) {
      if (!std::exchange(worker->given_up, true)) gone.push_back(worker->remote);
    }
    const auto end =
        std::ranges::partition(retired_, [](const auto& worker) { return worker->users > 0; });
    std::ranges::move(end, std::back_inserter(unused));
    retired_.erase(end.begin(), end.end());
  }
  for (engine::RemoteEngine* engine : gone) engine->give_up();
  return chores;
}

void Dispatcher::give_up_workers() {
  std::vector<engine::RemoteEngine*> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto* workers : {&workers_, &retired_}) {
      for (const std::unique_ptr<Worker>& worker : *workers) {
        if (worker != nullptr && worker->remote != nullptr) all.push_back(worker->remote);
      }
    }
  }
  for (engine::RemoteEngine* engine : all) engine->give_up();
}

/// Under the lock, as what follows. A worker that is known by heartbeats alone cannot be used.
void Dispatcher::show_state(kv::Slot slot) {
  if (slot >= workers_.size() || workers_[slot] == nullptr) return;
  Worker& worker = *workers_[slot];
  const bool connected = worker.engine->connected();
  worker.was_connected |= connected;
  fleet::WorkerState state = registry_.health(slot)->state();
  if (state == fleet::WorkerState::kReady && !connected) {
    state = worker.was_connected ? fleet::WorkerState::kSuspect : fleet::WorkerState::kStarting;
  }
  ledger_.set_state(slot, state);
}

/// Who hangs may come back, so what it has been given is left there until somebody else would take
/// it.
void Dispatcher::show_who_hangs(TimePoint now) {
  const fleet::FleetView fleet = ledger_.view();
  bool answered = false;
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    answered |= workers_[slot] != nullptr && fleet.state[slot] == fleet::WorkerState::kReady &&
                fleet.role[slot] != fleet::Role::kPrefill;
  }
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr) continue;
    workers_[slot]->hangs = answered && registry_.health(slot)->hangs(now);
  }
}

/// Workers that the registry has let go keep their engines for those who still point there.
void Dispatcher::retire_gone() {
  const std::size_t before = retired_.size();
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr || workers_[slot]->remote == nullptr) continue;
    const fleet::WorkerInfo* info = registry_.info(slot);
    if (info != nullptr && info->instance == workers_[slot]->instance) continue;
    workers_[slot]->cache.reset();
    workers_[slot]->hangs = false;  // it is lost, and another life of it may be there
    retired_.push_back(std::move(workers_[slot]));
  }
  if (retired_.size() > before) agree_on_tiers_key();
}

/// A prompt's blocks are named once: as the workers of this process name them, which share a store,
/// and without such as most of the others do, while a fleet goes from one build to the next. What
/// the rest has is not found.
void Dispatcher::agree_on_tiers_key() {
  if (own_tiers_) return;
  std::map<std::string_view, std::uint32_t> users;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    if (worker == nullptr || worker->engine->info().kv_tiers_key.empty()) continue;
    ++users[worker->engine->info().kv_tiers_key];
  }
  if (users.empty()) return;
  const auto most = std::ranges::max_element(users, {}, [](const auto& use) { return use.second; });
  const auto now = users.find(tiers_key_);
  if (now != users.end() && now->second == most->second) return;
  if (now != users.end()) {
    log::info(
        "most workers with lower tiers are of another build, CPU or setting now: what {} others "
        "hold there is not foreseen any more",
        now->second);
  }
  const std::lock_guard lock(tiers_key_mutex_);
  tiers_key_ = most->first;
}

kv::Slot Dispatcher::slot_of(std::string_view instance) const {
  if (instance.empty()) return kNobody;
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] != nullptr && workers_[slot]->instance == instance) return slot;
  }
  return kNobody;
}

}  // namespace penstock::serve
