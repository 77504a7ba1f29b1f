#include "sim/series.h"

#include <algorithm>

namespace penstock::sim {

void TimeStrip::cover(Nanos end) {
  while (end > width_ * static_cast<Nanos::rep>(kBuckets)) {
    for (std::size_t i = 0; i < kBuckets / 2; ++i) {
      buckets_[i] = buckets_[2 * i] + buckets_[2 * i + 1];
    }
    std::fill(buckets_.begin() + kBuckets / 2, buckets_.end(), 0);
    width_ *= 2;
  }
}

void TimeStrip::add(Nanos begin, Nanos end, double amount) {
  cover(std::max(end, begin + Nanos(1)));
  if (begin >= end) {
    buckets_[static_cast<std::size_t>(begin / width_)] += amount;
    return;
  }
  const double each = amount / static_cast<double>((end - begin).count());
  while (begin < end) {
    const Nanos::rep bucket = begin / width_;
    const Nanos until = std::min(end, width_ * (bucket + 1));
    buckets_[static_cast<std::size_t>(bucket)] +=
        each * static_cast<double>((until - begin).count());
    begin = until;
  }
}

}  // namespace penstock::sim
