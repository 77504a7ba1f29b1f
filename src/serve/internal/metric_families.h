#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

namespace penstock::serve {

inline prometheus::Family<prometheus::Counter>& counters(prometheus::Registry& registry,
                                                         const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
inline prometheus::Family<prometheus::Gauge>& gauges(prometheus::Registry& registry,
                                                     const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

/// Of whom it was shown is gone.
template <class Metric>
void remove(prometheus::Family<Metric>& family, const prometheus::Labels& labels) {
  family.Remove(&family.Add(labels));
}

/// For what is counted elsewhere. A counter has no lock between reading and adding, but pages are
/// asked for one after the other as good as always, and then it is exact.
inline void raise_to(prometheus::Counter& counter, double total) {
  const double more = total - counter.Value();
  if (more > 0) counter.Increment(more);
}

}  // namespace penstock::serve
