// A placement allocates nothing: this replaces the global operator new for all tests of the module.

#include <gtest/gtest.h>

#include <vector>

#include "base/counted_new.h"
#include "router/router.h"

namespace penstock::router {
namespace {

TEST(Router, PlacesAndAccountsWithoutAllocating) {
  constexpr std::uint32_t kWorkers = 50;
  std::vector<std::uint64_t> locals(300);
  std::vector<kv::StoredBlock> blocks;
  for (std::size_t i = 0; i < locals.size(); ++i) {
    locals[i] = mix64(i + 1);
    blocks.push_back({.alias = locals[i], .local = locals[i]});
  }
  for (const PolicyEntry& entry : policies()) {
    const Policy::Needs needs = entry.make()->needs();
    if (needs.active) continue;  // counts every block of what is in flight
    fleet::Ledger ledger;
    kv::PrefixIndex index({.context = "test", .shards = 1});
    Router router(entry.make(), ledger, index, 1);
    for (Slot slot = 0; slot < kWorkers; ++slot) {
      (void)*ledger.add(fleet::WorkerState::kReady, fleet::Role::kBoth);
      index.stored(slot, kv::Tier::kDevice, std::nullopt, std::span(blocks).first(3 * slot));
    }
    std::vector<fleet::Lease> leases(4 * kWorkers);
    const auto place = [&](std::size_t i) {
      Result<Placement> placement = router.place(
          {.prompt_tokens = 300 * 64 + 10, .block_tokens = 64, .locals = locals, .prefix_key = i});
      leases[i % leases.size()] = std::move(placement->lease);
    };
    for (std::size_t i = 0; i < 2 * leases.size(); ++i) place(i);
    const std::uint64_t before = allocations.load();
    for (std::size_t i = 0; i < 1000; ++i) place(i);
    EXPECT_EQ(allocations.load(), before) << entry.name;
  }
}

}  // namespace
}  // namespace penstock::router
