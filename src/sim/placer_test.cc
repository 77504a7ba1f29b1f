#include "sim/placer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

namespace penstock::sim {
namespace {

TEST(Placer, NobodyAliveNobodyPlaces) { EXPECT_FALSE(placer_of(1, {}).has_value()); }

TEST(Placer, AllAgreeWhateverOrderTheySeeTheReplicasIn) {
  std::vector<std::uint64_t> alive = {3, 14, 15, 92, 65};
  for (std::uint64_t pool = 0; pool < 100; ++pool) {
    const auto first = placer_of(pool, alive);
    std::ranges::next_permutation(alive);
    EXPECT_EQ(placer_of(pool, alive), first);
  }
}

TEST(Placer, PoolsAreSharedOutAndOnlyThoseOfTheOneThatLeavesMove) {
  const std::vector<std::uint64_t> alive = {0, 1, 2, 3};
  std::map<std::uint64_t, int> share;
  for (std::uint64_t pool = 0; pool < 4000; ++pool) {
    const std::uint64_t before = *placer_of(pool, alive);
    ++share[before];
    const std::uint64_t after = *placer_of(pool, std::vector<std::uint64_t>{0, 1, 3});
    if (before != 2) {
      EXPECT_EQ(after, before);
    }
  }
  for (const auto& [replica, pools] : share) EXPECT_NEAR(pools, 1000, 120) << replica;
}

}  // namespace
}  // namespace penstock::sim
