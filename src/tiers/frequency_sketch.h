#pragma once

#include <cstdint>
#include <vector>

#include "tiers/key.h"

namespace penstock::tiers {

/// About how often each key was asked for lately: a count-min sketch (four rows, counts to 15) that
/// halves all counts after an asking for every four counters of a row, which is one for each block
/// or every second, so that old fame fades as fast as all that is kept could be replaced. Never
/// says less than the truth of the present age. Memory: four bytes a counter. Not thread safe.
class FrequencySketch final {
 public:
  /// `blocks`: how many keys it is to tell apart well.
  explicit FrequencySketch(std::uint64_t blocks);

  void add(const Key& key) noexcept;
  [[nodiscard]] std::uint32_t estimate(const Key& key) const noexcept;

 private:
  static constexpr std::uint32_t kRows = 4;
  static constexpr std::uint8_t kCountMax = 15;
  static constexpr std::uint64_t kCountersAnAsking = 4;  // of an age

  [[nodiscard]] std::uint64_t at(const Key& key, std::uint32_t row) const noexcept;

  std::uint64_t width_;  // a power of two
  std::uint64_t added_ = 0;
  std::vector<std::uint8_t> counts_;
};

}  // namespace penstock::tiers
