#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <string>

#include "serve/dispatcher.h"

namespace penstock::serve {

/// What /metrics shows of how well the workers are, how far the pictures of their caches can be
/// believed, and of the limits of the index that those are in. One thread at a time; the registry
/// outlives it.
class FleetMetrics final {
 public:
  explicit FleetMetrics(prometheus::Registry& registry);

  void set(const DispatcherView& view);
  /// The worker of that number is gone; another may get it, which counts from nothing.
  void forget(const std::string& worker);

 private:
  prometheus::Family<prometheus::Gauge>& state_;
  prometheus::Family<prometheus::Counter>& suspected_;
  prometheus::Family<prometheus::Counter>& doubts_;
  prometheus::Family<prometheus::Counter>& gaps_;
  prometheus::Family<prometheus::Counter>& snapshots_;
  prometheus::Family<prometheus::Counter>& orphans_;
  prometheus::Counter& reports_stale_;
  prometheus::Gauge& index_bytes_max_;
  prometheus::Counter& index_shed_;
  prometheus::Counter& index_refused_;
};

}  // namespace penstock::serve
