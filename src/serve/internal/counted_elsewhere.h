#pragma once

#include <prometheus/counter.h>

namespace penstock::serve {

/// For what is counted elsewhere. A counter has no lock between reading and adding, but pages are
/// asked for one after the other as good as always, and then it is exact.
inline void raise_to(prometheus::Counter& counter, double total) {
  const double more = total - counter.Value();
  if (more > 0) counter.Increment(more);
}

}  // namespace penstock::serve
