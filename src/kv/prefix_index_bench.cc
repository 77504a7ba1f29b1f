// Lookups and events by themselves, in fleets of several sizes. Beside the lookups their floor:
// comparing the prompt with the same hashes in an array of which the place is known. Against other
// indexes, and beside a writer: bench/index/run.sh.
//
// Re-run: kv_bench --benchmark_counters_tabular=true

#include <benchmark/benchmark.h>

#include <algorithm>
#include <span>
#include <vector>

#include "base/rng.h"
#include "kv/prefix_index.h"

namespace penstock::kv {
namespace {

constexpr std::uint32_t kChains = 20'000;
constexpr std::uint32_t kPrefixes = 64;
constexpr std::size_t kPrefixBlocks = 32;
constexpr std::size_t kChainBlocks = 96;
constexpr Slot kHolders = 8;

/// Chains that begin with one of 64 prefixes, each held by eight slots.
class Fleet {
 public:
  explicit Fleet(Slot slots) : index({.slots_max = slots}), slots_(slots) {
    Rng random(1);
    std::vector<std::uint64_t> prefixes(kPrefixes * kPrefixBlocks);
    for (std::uint64_t& local : prefixes) local = random.next();
    for (std::uint32_t c = 0; c < kChains; ++c) {
      const std::size_t prefix = random.below(kPrefixes) * kPrefixBlocks;
      for (std::size_t i = 0; i < kChainBlocks; ++i) {
        locals_.push_back(i < kPrefixBlocks ? prefixes[prefix + i] : random.next());
      }
      store(c);
    }
  }

  [[nodiscard]] std::span<const std::uint64_t> chain(std::uint32_t c) const {
    return std::span(locals_).subspan(c * kChainBlocks, kChainBlocks);
  }

  /// With names as engines give them: hashes of a block and what comes before it.
  [[nodiscard]] std::vector<StoredBlock> blocks(std::uint32_t c) const {
    std::vector<StoredBlock> made;
    std::uint64_t alias = 0;
    for (const std::uint64_t local : chain(c)) {
      alias = mix64(alias + local);
      made.push_back({alias, local});
    }
    return made;
  }

  [[nodiscard]] Slot holder(std::uint32_t c, Slot number) const {
    return (c + 7 * number) % slots_;
  }

  void store(std::uint32_t c) {
    const std::vector<StoredBlock> made = blocks(c);
    for (Slot h = 0; h < kHolders; ++h) {
      index.stored(holder(c, h), Tier::kDevice, std::nullopt, made);
    }
  }

  PrefixIndex index;

 private:
  const Slot slots_;
  std::vector<std::uint64_t> locals_;
};

void match(benchmark::State& state) {
  const auto slots = static_cast<Slot>(state.range(0));
  const Fleet fleet(slots);
  std::vector<std::uint32_t> depths(slots);
  Rng random(2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(fleet.index.match(fleet.chain(random.below(kChains)), depths));
  }
}
BENCHMARK(match)->ArgName("slots")->Arg(8)->Arg(256)->Arg(7000);

void match_floor(benchmark::State& state) {
  const auto slots = static_cast<Slot>(state.range(0));
  const Fleet fleet(slots);
  std::vector<std::uint64_t> copies;
  for (std::uint32_t c = 0; c < kChains; ++c) {
    copies.insert(copies.end(), fleet.chain(c).begin(), fleet.chain(c).end());
  }
  std::vector<std::uint32_t> depths(slots);
  Rng random(2);
  for (auto _ : state) {
    const std::uint32_t c = random.below(kChains);
    std::fill(depths.begin(), depths.end(), 0);
    const auto copy = copies.begin() + static_cast<std::ptrdiff_t>(c * kChainBlocks);
    benchmark::DoNotOptimize(std::equal(copy, copy + kChainBlocks, fleet.chain(c).begin()));
    benchmark::DoNotOptimize(depths.data());
  }
}
BENCHMARK(match_floor)->ArgName("slots")->Arg(8)->Arg(256)->Arg(7000);

/// A chain's blocks behind the prefix go from its last holder and come back, as many an event.
void remove_and_store(benchmark::State& state) {
  const auto at_once = static_cast<std::size_t>(state.range(0));
  Fleet fleet(256);
  Rng random(2);
  for (auto _ : state) {
    state.PauseTiming();
    const std::uint32_t c = random.below(kChains);
    const Slot slot = fleet.holder(c, kHolders - 1);
    const std::vector<StoredBlock> all = fleet.blocks(c);
    std::vector<std::uint64_t> aliases;
    for (std::size_t i = kChainBlocks; i > kPrefixBlocks; --i) aliases.push_back(all[i - 1].alias);
    state.ResumeTiming();
    for (std::size_t i = 0; i < aliases.size(); i += at_once) {
      fleet.index.removed(slot, Tier::kDevice, std::span(aliases).subspan(i, at_once));
    }
    for (std::size_t i = kPrefixBlocks; i < kChainBlocks; i += at_once) {
      fleet.index.stored(slot, Tier::kDevice, all[i - 1].alias, std::span(all).subspan(i, at_once));
    }
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * 2 *
                          (kChainBlocks - kPrefixBlocks));
}
BENCHMARK(remove_and_store)->ArgName("blocks_an_event")->Arg(1)->Arg(64);

}  // namespace
}  // namespace penstock::kv
