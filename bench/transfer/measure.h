#pragma once

// What the rows of the transfer library's benchmark have in common.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/rng.h"
#include "transfer/memory.h"

namespace penstock::transfer::measure {

inline const SteadyClock kClock;

inline std::uint64_t environment(const char* name, std::uint64_t otherwise) {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}
inline const std::uint64_t kPoolBytes = environment("POOL_MIB", 512) << 20;
inline const auto kRounds = static_cast<int>(environment("ROUNDS", 7));

inline double seconds(TimePoint from) {
  return std::chrono::duration<double>(kClock.now() - from).count();
}
inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

inline std::uint64_t word_of(std::uint64_t at) { return at * 0x9e3779b97f4a7c15ULL; }
inline void write_pattern(std::byte* to, std::uint64_t size) {
  auto* words = reinterpret_cast<std::uint64_t*>(to);
  for (std::uint64_t i = 0; i < size / 8; ++i) words[i] = word_of(i);
}

inline std::vector<std::uint32_t> shuffled(std::uint32_t count, std::uint64_t seed) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  Rng rng(seed);
  for (std::uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

inline Memory pool(std::uint64_t size) {
  auto memory = Memory::create(MemoryKind::kPrivate, size);
  CHECK(memory.has_value());
  return std::move(*memory);
}

/// Plain memcpy between two cold pools, both orders random: what everything is divided by.
class Floor {
 public:
  explicit Floor(std::uint32_t block)
      : block_(block), from_(pool(kPoolBytes)), to_(pool(kPoolBytes)) {
    write_pattern(from_.data(), kPoolBytes);
  }
  double gb_per_s(std::uint64_t seed) {
    const auto count = static_cast<std::uint32_t>(kPoolBytes / block_);
    const auto a = shuffled(count, seed);
    const auto b = shuffled(count, seed + 1);
    const TimePoint start = kClock.now();
    for (std::uint32_t i = 0; i < count; ++i) {
      std::memcpy(to_.data() + std::uint64_t{b[i]} * block_,
                  from_.data() + std::uint64_t{a[i]} * block_, block_);
    }
    return static_cast<double>(kPoolBytes) / seconds(start) / 1e9;
  }

 private:
  std::uint32_t block_;
  Memory from_;
  Memory to_;
};

/// The same bytes through plain sockets. `mode`: "sockets" as they come; "tuned": with the
/// library's send buffer; "staged": also received as the library does, checksums taken.
void sockets_row(std::uint32_t block, unsigned streams, const std::string& mode);

}  // namespace penstock::transfer::measure
