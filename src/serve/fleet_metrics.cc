#include "serve/fleet_metrics.h"

#include <array>

#include "serve/internal/metric_families.h"

namespace penstock::serve {
namespace {

constexpr std::array kStates = {fleet::WorkerState::kStarting, fleet::WorkerState::kReady,
                                fleet::WorkerState::kDraining, fleet::WorkerState::kSuspect};

prometheus::Labels state_label(const std::string& worker, fleet::WorkerState state) {
  return {{"worker", worker}, {"state", std::string(to_string(state))}};
}
/// Of the `index`th value of an enumeration of reasons.
template <class Reason>
prometheus::Labels reason_label(const std::string& worker, std::size_t index) {
  return {{"worker", worker}, {"reason", std::string(to_string(static_cast<Reason>(index)))}};
}

}  // namespace

FleetMetrics::FleetMetrics(prometheus::Registry& registry)
    : state_(gauges(registry, "penstock_worker_state", "1: the state that the worker is in")),
      suspected_(counters(registry, "penstock_worker_suspected_total",
                          "Times that it became suspect, by reason")),
      doubts_(counters(registry, "penstock_cache_doubts_total",
                       "Times that the picture of its cache became degraded, by reason")),
      gaps_(counters(registry, "penstock_cache_gaps_total",
                     "Times that events of its cache were gone before they were read")),
      snapshots_(counters(registry, "penstock_cache_snapshots_total",
                          "Times that all it holds was read anew")),
      orphans_(counters(registry, "penstock_cache_orphans_total",
                        "Events of blocks that follow blocks which the picture lacks")),
      reports_stale_(counters(registry, "penstock_router_reports_stale_total",
                              "Load reports that came after newer ones, and were dropped")
                         .Add({})),
      index_bytes_max_(gauges(registry, "penstock_index_bytes_max",
                              "What the prefix index may take (--index-mib)")
                           .Add({})),
      index_shed_(counters(registry, "penstock_index_shed_blocks_total",
                           "Blocks of workers that the full prefix index dropped for newer ones")
                      .Add({})),
      index_refused_(counters(registry, "penstock_index_refused_blocks_total",
                              "Blocks of workers that found no room in the prefix index")
                         .Add({})) {}

void FleetMetrics::set(const DispatcherView& view) {
  const auto raise = [](prometheus::Counter& counter, std::uint64_t total) {
    raise_to(counter, static_cast<double>(total));
  };
  raise(reports_stale_, view.reports_stale);
  index_bytes_max_.Set(static_cast<double>(view.index.budget_bytes));
  raise(index_shed_, view.index.shed_memberships);
  raise(index_refused_, view.index.refused_blocks);
  for (const WorkerView& worker : view.workers) {
    const std::string number = std::to_string(worker.slot);
    for (const fleet::WorkerState state : kStates) {
      state_.Add(state_label(number, state)).Set(state == worker.state ? 1 : 0);
    }
    for (std::size_t i = 0; i < fleet::kSuspicions; ++i) {
      raise(suspected_.Add(reason_label<fleet::Suspicion>(number, i)), worker.suspected[i]);
    }
    for (std::size_t i = 0; i < fleet::kDoubts; ++i) {
      raise(doubts_.Add(reason_label<fleet::Doubt>(number, i)), worker.doubts[i]);
    }
    raise(gaps_.Add({{"worker", number}}), worker.gaps);
    raise(snapshots_.Add({{"worker", number}}), worker.snapshots);
    raise(orphans_.Add({{"worker", number}}), worker.orphans);
  }
}

void FleetMetrics::forget(const std::string& worker) {
  for (const fleet::WorkerState state : kStates) remove(state_, state_label(worker, state));
  for (std::size_t i = 0; i < fleet::kSuspicions; ++i) {
    remove(suspected_, reason_label<fleet::Suspicion>(worker, i));
  }
  for (std::size_t i = 0; i < fleet::kDoubts; ++i) {
    remove(doubts_, reason_label<fleet::Doubt>(worker, i));
  }
  for (auto* family : {&gaps_, &snapshots_, &orphans_}) remove(*family, {{"worker", worker}});
}

}  // namespace penstock::serve
