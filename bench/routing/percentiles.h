#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace penstock::bench {

/// Of times in ns.
struct Percentiles {
  explicit Percentiles(std::vector<double> values) : sorted(std::move(values)) {
    std::ranges::sort(sorted);
  }
  [[nodiscard]] double us(double percent) const {
    return sorted[static_cast<std::size_t>(static_cast<double>(sorted.size() - 1) * percent /
                                           100)] /
           1e3;
  }
  std::vector<double> sorted;
};

}  // namespace penstock::bench
