#include "tiers/decision.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/rng.h"

namespace penstock::tiers {
namespace {

double load_ns(const std::vector<Tier>& tiers, std::size_t blocks, const LoadCosts& costs) {
  double ns = 0;
  bool any = false;
  for (std::size_t i = 0; i < blocks; ++i) {
    any = any || tiers[i] == Tier::kDisk;
    ns += tiers[i] == Tier::kDisk ? costs.disk_ns : costs.host_ns;
  }
  return ns + (any ? costs.disk_queue_ns : 0);
}

TEST(ChooseLoad, SavesAsMuchAsAnyOtherBeginning) {
  Rng rng(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Tier> tiers(rng.below(20));
    for (Tier& tier : tiers) tier = rng.below(2) == 0 ? Tier::kHost : Tier::kDisk;
    const LoadCosts costs{.host_ns = rng.fraction(),
                          .disk_ns = 3 * rng.fraction(),
                          .disk_queue_ns = 10 * rng.fraction(),
                          .recompute_ns = 2 * rng.fraction()};
    const LoadChoice choice = choose_load(tiers, costs);
    EXPECT_NEAR(choice.load_ns, load_ns(tiers, choice.blocks, costs), 1e-9);
    EXPECT_NEAR(choice.recompute_ns, choice.blocks * costs.recompute_ns, 1e-9);
    for (std::size_t other = 0; other <= tiers.size(); ++other) {
      const double saved = static_cast<double>(other) * costs.recompute_ns;
      EXPECT_GE(choice.recompute_ns - choice.load_ns + 1e-9, saved - load_ns(tiers, other, costs));
    }
  }
}

TEST(ChooseLoad, NamesTheSlowestTierOfWhatIsLoaded) {
  const std::vector<Tier> tiers{Tier::kHost, Tier::kDisk, Tier::kDisk};
  EXPECT_EQ(choose_load(tiers, {1, 2, 0, 10}).slowest, Tier::kDisk);
  EXPECT_EQ(choose_load(tiers, {1, 20, 0, 10}).slowest, Tier::kHost);
}

TEST(ChooseLoad, AQueueThatIsTooLongIsNotWaitedFor) {
  const std::vector<Tier> tiers{Tier::kHost, Tier::kDisk, Tier::kDisk};
  EXPECT_EQ(choose_load(tiers, {1, 2, 0, 10}).blocks, 3U);
  EXPECT_EQ(choose_load(tiers, {1, 2, 16, 10}).blocks, 1U);
  EXPECT_EQ(choose_load(tiers, {1, 2, 15, 10}).blocks, 3U);
  EXPECT_EQ(choose_load({}, {1, 2, 0, 10}).blocks, 0U);
}

}  // namespace
}  // namespace penstock::tiers
