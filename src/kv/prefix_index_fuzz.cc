// Events chosen by the fuzzer, compared with the oracle.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "kv/index_events_for_test.h"
#include "kv/prefix_index.h"
#include "kv/reference_index.h"

namespace {

/// The fuzzer's bytes as numbers; zero when they have run out.
struct Bytes {
  const std::uint8_t* data;
  std::size_t left;
  std::uint64_t next(std::uint64_t bound) {
    if (left == 0) return 0;
    --left;
    return *data++ % bound;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock::kv;
  constexpr Slot kSlots = 5;
  Bytes source{data, size};
  const auto naming = static_cast<IndexEvents<Bytes>::Naming>(source.next(3));
  IndexEvents<Bytes> events(source, kSlots, naming);
  PrefixIndex index({.budget_bytes = 16U << 20, .shards = 2, .slots_max = kSlots});
  ReferenceIndex oracle;
  while (source.left > 0) {
    const auto event = events.next();
    apply(event, index);
    apply(event, oracle);
    const std::vector<std::uint64_t> chain = events.chain(45);
    std::vector<std::uint32_t> depths(kSlots);
    for (const TierSet tiers : {kDeviceOnly, kAllTiers}) {
      const std::size_t written = index.match(chain, depths, tiers);
      for (Slot slot = 0; slot < written; ++slot) {
        CHECK_EQ(depths[slot], oracle.depth(slot, chain, tiers));
      }
    }
  }
  index.check();
  CHECK_EQ(index.stats().parent_unknown, oracle.parent_unknown());
  CHECK_EQ(index.stats().unknown_removals, oracle.unknown_removals());
  return 0;
}
