#include "serve/fleet_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/metrics.h"

namespace penstock::serve {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr auto kLost = static_cast<std::size_t>(fleet::Doubt::kLost);
constexpr auto kHung = static_cast<std::size_t>(fleet::Suspicion::kHung);

TEST(FleetMetrics, SaysHowWellEachWorkerAndTheIndexAre) {
  DispatcherView view;
  view.reports_stale = 7;
  view.index.budget_bytes = 1000;
  view.index.shed_memberships = 5;
  view.index.refused_blocks = 6;
  WorkerView& worker = view.workers.emplace_back();
  worker.slot = 3;
  worker.instance = "one life";
  worker.state = fleet::WorkerState::kSuspect;
  worker.gaps = 2;
  worker.orphans = 4;
  worker.doubts[kLost] = 8;
  worker.suspected[kHung] = 9;
  Metrics metrics;
  metrics.set(view);
  const std::string page = metrics.page();
  for (const char* line : {
           "penstock_worker_state{state=\"suspect\",worker=\"3\"} 1\n",
           "penstock_worker_state{state=\"ready\",worker=\"3\"} 0\n",
           "penstock_worker_suspected_total{reason=\"hung\",worker=\"3\"} 9\n",
           "penstock_cache_doubts_total{reason=\"lost\",worker=\"3\"} 8\n",
           "penstock_cache_doubts_total{reason=\"disagreement\",worker=\"3\"} 0\n",
           "penstock_cache_gaps_total{worker=\"3\"} 2\n",
           "penstock_cache_orphans_total{worker=\"3\"} 4\n",
           "penstock_router_reports_stale_total 7\n",
           "penstock_index_bytes_max 1000\n",
           "penstock_index_shed_blocks_total 5\n",
           "penstock_index_refused_blocks_total 6\n",
       }) {
    EXPECT_THAT(page, HasSubstr(line));
  }
}

TEST(FleetMetrics, WhatIsShownOfAWorkerEndsWithIt) {
  DispatcherView view;
  WorkerView& worker = view.workers.emplace_back();
  worker.instance = "one life";
  worker.gaps = 5;
  worker.doubts[kLost] = 5;
  Metrics metrics;
  metrics.set(view);
  view.workers.front() = {};
  view.workers.front().instance = "another";  // under its number
  view.workers.front().gaps = 1;
  metrics.set(view);
  EXPECT_THAT(metrics.page(), HasSubstr("penstock_cache_gaps_total{worker=\"0\"} 1\n"));
  EXPECT_THAT(metrics.page(),
              HasSubstr("penstock_cache_doubts_total{reason=\"lost\",worker=\"0\"} 0\n"));
  view.workers.clear();
  metrics.set(view);
  for (const char* name : {"penstock_worker_state", "penstock_worker_suspected_total",
                           "penstock_cache_doubts_total", "penstock_cache_gaps_total"}) {
    EXPECT_THAT(metrics.page(), Not(HasSubstr(std::string(name) + "{")));
  }
}

TEST(WorkerMetrics, SayWhatKvCameByWhichPath) {
  DispatcherView view;
  WorkerView& worker = view.workers.emplace_back();
  worker.slot = 3;
  worker.load.kv_transfers[static_cast<std::size_t>(transfer::PathKind::kTcp)] = {
      .pulls = 1, .retries = 2, .blocks = 3, .failed_blocks = 4, .bytes = 5, .took = Nanos(6)};
  Metrics metrics;
  metrics.set(view);
  metrics.set(view);  // counters are totals
  const std::string page = metrics.page();
  for (const char* line : {
           "pulls_total{path=\"tcp\",worker=\"3\"} 1\n",
           "retries_total{path=\"tcp\",worker=\"3\"} 2\n",
           "blocks_total{path=\"tcp\",worker=\"3\"} 3\n",
           "failed_blocks_total{path=\"tcp\",worker=\"3\"} 4\n",
           "bytes_total{path=\"tcp\",worker=\"3\"} 5\n",
           "seconds_total{path=\"tcp\",worker=\"3\"} 6e-09\n",
       }) {
    EXPECT_THAT(page, HasSubstr(std::string("\npenstock_worker_kv_transfer_") + line));
  }
  EXPECT_THAT(page, Not(HasSubstr("path=\"cma\"")));
  view.workers.clear();
  metrics.set(view);
  EXPECT_THAT(metrics.page(), Not(HasSubstr("path=\"tcp\"")));
}

}  // namespace
}  // namespace penstock::serve
