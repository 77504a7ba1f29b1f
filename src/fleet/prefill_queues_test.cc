#include "fleet/prefill_queues.h"

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "base/rng.h"

namespace penstock::fleet {
namespace {

TEST(PrefillQueues, EqualsPlainListsAfterAnything) {
  constexpr std::uint32_t kSlots = 4;
  struct Held {
    PrefillQueues::Entry entry;
    std::uint32_t tokens;
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rng rng(seed);
    PrefillQueues queues;
    queues.grow(kSlots);
    std::vector<std::vector<Held>> plain(kSlots);
    for (std::uint32_t step = 0; step < 500; ++step) {
      const kv::Slot slot = rng.below(kSlots);
      std::vector<Held>& held = plain[slot];
      const std::uint32_t what = rng.below(20);
      if (what < 11 || held.empty()) {
        held.push_back({queues.push(slot, {.uncached_tokens = step}), step});
      } else if (what < 19) {
        const std::uint32_t i = rng.below(static_cast<std::uint32_t>(held.size()));
        queues.remove(slot, held[i].entry);
        held.erase(held.begin() + i);
      } else {
        queues.clear(slot);
        held.clear();
      }
      ASSERT_EQ(queues.size(slot), held.size());
      const std::uint32_t count = rng.below(queues.size(slot) + 1);
      std::vector<std::uint32_t> expected;
      for (const Held& h : std::span(held).last(count)) expected.push_back(h.tokens);
      std::vector<std::uint32_t> seen;
      queues.for_last(slot, count,
                      [&](const QueuedPrefill& p) { seen.push_back(p.uncached_tokens); });
      ASSERT_EQ(seen, expected);
    }
  }
}

}  // namespace
}  // namespace penstock::fleet
