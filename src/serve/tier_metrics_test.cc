#include "serve/tier_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/dispatcher.h"
#include "serve/metrics.h"

namespace penstock::serve {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(TierMetrics, ShowsOwnStoreAndThoseOfWorkersElsewhereUntilTheyAreGone) {
  DispatcherView view;
  tiers::Stats& own = view.tiers.emplace();
  own.disk_blocks = 5;
  own.missed[static_cast<std::size_t>(tiers::Reason::kWear)] = 2;
  WorkerView& worker = view.workers.emplace_back();
  worker.slot = 3;
  worker.instance = "one life";
  tiers::Stats& its = worker.tiers.emplace();
  its.disk_blocks = 7;
  its.asked = 9;
  its.given[static_cast<std::size_t>(tiers::Tier::kDisk)] = 8;
  its.writes_paused = true;
  its.load_taken_s = 0.5;
  Metrics metrics;
  metrics.set(view);
  metrics.set(view);  // counters are totals
  const std::string page = metrics.page();
  for (const char* line : {
           "penstock_kv_tier_blocks{tier=\"disk\"} 5\n",
           "penstock_kv_tier_blocks{tier=\"disk\",worker=\"3\"} 7\n",
           "penstock_kv_tier_missed_total{reason=\"wear\"} 2\n",
           "penstock_kv_tier_missed_total{reason=\"wear\",worker=\"3\"} 0\n",
           "penstock_kv_tier_asked_total{worker=\"3\"} 9\n",
           "penstock_kv_tier_given_total{tier=\"disk\",worker=\"3\"} 8\n",
           "penstock_kv_tier_breaker_open{direction=\"written\",worker=\"3\"} 1\n",
           "penstock_kv_tier_load_seconds_total{time=\"taken\",worker=\"3\"} 0.5\n",
       }) {
    EXPECT_THAT(page, HasSubstr(line));
  }
  view.workers.clear();
  metrics.set(view);
  for (const char* name : {"blocks", "missed_total", "recovered_blocks"}) {
    const std::string family = std::string("penstock_kv_tier_") + name;
    EXPECT_THAT(metrics.page(), HasSubstr("\n" + family));
    EXPECT_THAT(metrics.page(), Not(testing::ContainsRegex(family + "[{][^\n]*worker")));
  }
}

TEST(TierMetrics, WithoutAStoreThereIsNothingToShow) {
  DispatcherView view;
  view.workers.emplace_back();
  Metrics metrics;
  metrics.set(view);
  EXPECT_THAT(metrics.page(), Not(HasSubstr("penstock_kv_tier_blocks{")));
}

}  // namespace
}  // namespace penstock::serve
