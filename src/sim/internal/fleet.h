#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/simulated/model.h"
#include "fleet/ledger.h"
#include "fleet/registry.h"
#include "router/router.h"
#include "sim/internal/kv_feed.h"
#include "sim/series.h"

namespace penstock::sim {

/// What is to happen to one request on its way from prefill to decode worker.
struct Action {
  enum class Kind : std::uint8_t { kReserve, kTransfer, kActivate, kRelease };
  Kind kind = Kind::kReserve;
  std::uint32_t request = 0;
  std::uint32_t tries = 0;  // of the request, when this came up: later ones do not count
};

/// A worker: the scheduling model of the simulated engine, and what the simulation knows around it.
struct Worker {
  Worker(const engine::simulated::ModelOptions& options, fleet::Role worker_role,
         std::size_t routers, bool tells_cache, bool remembers_cache)
      : role(worker_role),
        feed(tells_cache ? std::make_unique<KvFeed>() : nullptr),
        model(std::make_unique<engine::simulated::SchedulerModel>(options, feed.get())),
        accepted(routers) {
    if (feed != nullptr && remembers_cache) feed->memory = std::make_unique<KvMemory>();
  }

  fleet::Role role;
  std::unique_ptr<KvFeed> feed;  // null: nobody wants to know
  std::unique_ptr<engine::simulated::SchedulerModel> model;
  std::vector<std::uint64_t> accepted;  // requests taken in, by router
  std::uint64_t reports = 0;
  bool busy = false;     // in a pass
  bool touched = false;  // may be able to start a pass
  // The pass under way, or so many of them that are alike, one after the other.
  std::uint32_t pass_serial = 0;  // grows whenever the end is set anew: older ends do not count
  std::uint32_t pass_repeats = 1;
  Nanos pass_started{0};
  Nanos pass_took{0};  // each
  fleet::PassWork pass;
  fleet::PassWork last_pass;
  Nanos last_pass_took{0};
  Nanos computing{0};                     // time in passes so far
  std::unique_ptr<TimeStrip> busy_strip;  // null: nobody plots
  std::vector<Action> deferred;           // until it is between passes

  // Where things go wrong (player_faults.cc).
  std::uint32_t life = 1;
  bool down = false;
  double slowdown = 1;
  std::uint64_t events = 0;              // told of its cache in this life
  std::uint64_t passes_before = 0;       // in lives before
  std::uint64_t preemptions_before = 0;  // as well
  std::vector<std::uint32_t> departing;  // Lives taken off it during the pass under way
};

/// One router replica with its own picture of the fleet.
struct Front {
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  Front(std::unique_ptr<router::Policy> policy, std::uint32_t worker_count,
        std::size_t index_budget_bytes, std::uint64_t seed)
      : ledger({.slots_max = worker_count, .count_distinct_blocks = policy->needs().active}),
        index({.context = "simulated",
               .budget_bytes = index_budget_bytes,
               .shards = 1,
               .slots_max = worker_count}),
        router(std::move(policy), ledger, index, seed),
        slots(worker_count, kNone),
        workers(worker_count, kNone),
        lives(worker_count, 0) {}

  fleet::Ledger ledger;
  kv::PrefixIndex index;
  router::Router router;
  std::vector<kv::Slot> slots;                // by worker
  std::vector<std::uint32_t> workers;         // by slot
  std::vector<std::uint32_t> lives;           // of each worker, that has joined here; 0: none has
  std::unique_ptr<fleet::Registry> registry;  // null: nothing goes wrong
};

}  // namespace penstock::sim
