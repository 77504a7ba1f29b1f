#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <string>

#include "tiers/stats.h"

namespace penstock::serve {

/// What /metrics shows of the KV stores behind workers: the one of this process's own, and those of
/// workers of other processes, which have their number as a label. One thread at a time; the
/// registry outlives it.
class TierMetrics final {
 public:
  explicit TierMetrics(prometheus::Registry& registry);

  /// `worker`: its number; empty: those of this process.
  void set(const tiers::Stats& stats, const std::string& worker);
  /// The worker of that number is gone; another may get it, which counts from nothing.
  void forget(const std::string& worker);

 private:
  using Gauges = prometheus::Family<prometheus::Gauge>;
  using Counters = prometheus::Family<prometheus::Counter>;

  /// Calls `visit` with each series of a store: its family, its labels, what it shows now.
  template <class Visit>
  void each(const tiers::Stats& stats, const std::string& worker, Visit visit);

  Gauges& blocks_;
  Gauges& bytes_;
  Counters& asked_;
  Counters& given_;
  Counters& missed_;
  Counters& refused_;
  Counters& moved_;
  Counters& segments_;
  Counters& load_;
  Gauges& breaker_;
  Gauges& recovered_;
};

}  // namespace penstock::serve
