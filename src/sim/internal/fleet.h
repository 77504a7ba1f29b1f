#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/simulated/model.h"
#include "fleet/ledger.h"
#include "router/router.h"
#include "sim/internal/kv_feed.h"

namespace penstock::sim {

/// A worker: the scheduling model of the simulated engine, and what the simulation knows around it.
struct Worker {
  Worker(const engine::simulated::ModelOptions& options, fleet::Role worker_role,
         std::size_t routers, bool tells_cache)
      : role(worker_role),
        feed(tells_cache ? std::make_unique<KvFeed>() : nullptr),
        model(std::make_unique<engine::simulated::SchedulerModel>(options, feed.get())),
        accepted(routers) {}

  fleet::Role role;
  std::unique_ptr<KvFeed> feed;  // null: nobody wants to know
  std::unique_ptr<engine::simulated::SchedulerModel> model;
  std::vector<std::uint64_t> accepted;  // requests taken in, by router
  std::uint64_t reports = 0;
  std::uint32_t life = 0;  // grows with each restart
  bool busy = false;       // in a pass
  bool touched = false;    // may be able to start a pass
  Nanos pass_started{0};
  Nanos pass_end{0};
  fleet::PassWork pass;
  fleet::PassWork last_pass;
  Nanos last_pass_took{0};
  Nanos computing{0};                                      // time in passes so far
  std::uint64_t passes = 0;                                // of lives before this one
  std::uint64_t preemptions = 0;                           // of those as well
  std::vector<engine::simulated::SequenceId> to_activate;  // once it is between passes
  std::vector<engine::simulated::SequenceId> to_release;
};

/// One router replica with its own picture of the fleet. Slots are the workers' indices.
struct Front {
  Front(std::unique_ptr<router::Policy> policy, std::uint64_t seed, Nanos predict_for)
      : ledger({.count_distinct_blocks = policy->needs().active}),
        index({.context = "simulated", .shards = 1}),
        router(std::move(policy), ledger, index, seed, predict_for) {}

  fleet::Ledger ledger;
  kv::PrefixIndex index;
  router::Router router;
};

}  // namespace penstock::sim
