#include "kv/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kv/local_hash.h"

namespace penstock::kv {
namespace {

using Depths = std::vector<std::uint32_t>;

/// A chain of `count` blocks that no other seed makes.
std::vector<StoredBlock> chain(std::uint64_t seed, std::size_t count) {
  std::vector<std::uint64_t> locals(count);
  for (std::size_t i = 0; i < count; ++i) locals[i] = (seed << 32) + i * 0x9E3779B97F4A7C15;
  std::vector<std::uint64_t> names;
  sequence_hashes(locals, names);
  std::vector<StoredBlock> blocks;
  for (std::size_t i = 0; i < count; ++i) blocks.push_back({names[i], locals[i]});
  return blocks;
}

std::vector<std::uint64_t> locals_of(std::span<const StoredBlock> blocks) {
  std::vector<std::uint64_t> locals;
  for (const StoredBlock& block : blocks) locals.push_back(block.local);
  return locals;
}

std::vector<std::uint64_t> aliases_of(std::span<const StoredBlock> blocks, bool leaf_first = true) {
  std::vector<std::uint64_t> aliases;
  for (const StoredBlock& block : blocks) aliases.push_back(block.alias);
  if (leaf_first) std::reverse(aliases.begin(), aliases.end());
  return aliases;
}

class PrefixIndexTest : public testing::Test {
 protected:
  static PrefixIndex::Options options(std::size_t budget_bytes = 64U << 20) {
    return {.context = "model|16", .budget_bytes = budget_bytes, .shards = 4, .slots_max = 100};
  }
  Depths match(std::span<const StoredBlock> blocks, TierSet tiers = kDeviceOnly) const {
    Depths depths(index_.slots(), 77);
    index_.match(locals_of(blocks), depths, tiers);
    return depths;
  }
  PrefixIndex index_{options()};
};

TEST_F(PrefixIndexTest, AnEmptyIndexAndAnEmptyChainMatchNothing) {
  EXPECT_TRUE(match(chain(1, 5)).empty());
  index_.stored(2, Tier::kDevice, std::nullopt, chain(1, 5));
  EXPECT_EQ(match({}), (Depths{0, 0, 0}));
  Depths larger(5, 9);
  EXPECT_EQ(index_.match(locals_of(chain(1, 9)), larger), 3U);
  EXPECT_EQ(larger, (Depths{0, 0, 5, 9, 9}));
  Depths smaller(1, 9);
  EXPECT_EQ(index_.match(locals_of(chain(1, 9)), smaller), 1U);
}

TEST_F(PrefixIndexTest, ChainsPartInsideARunWithoutCuttingIt) {
  std::vector<StoredBlock> one = chain(1, 40);
  std::vector<StoredBlock> other = chain(1, 10);
  for (const StoredBlock& block : chain(2, 10)) other.push_back(block);
  index_.stored(0, Tier::kDevice, std::nullopt, one);
  index_.stored(1, Tier::kDevice, std::nullopt, other);
  EXPECT_EQ(match(one), (Depths{40, 10}));
  EXPECT_EQ(match(other), (Depths{10, 20}));
  EXPECT_EQ(index_.stats().blocks, 50U);
  EXPECT_EQ(index_.stats().runs, 2U);
  EXPECT_EQ(index_.stats().splits, 0U);
  index_.check();
}

TEST_F(PrefixIndexTest, AStoreWhoseParentTheSlotDoesNotHoldIsNotAttached) {
  const std::vector<StoredBlock> blocks = chain(1, 10);
  index_.stored(0, Tier::kDevice, blocks[4].alias, std::span(blocks).subspan(5));
  EXPECT_EQ(index_.stats().parent_unknown, 1U);
  EXPECT_EQ(index_.stats().blocks, 0U);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  index_.stored(1, Tier::kDevice, blocks[4].alias, std::span(blocks).subspan(5));
  EXPECT_EQ(index_.stats().parent_unknown, 2U) << "another slot's name is no name of this one";
  EXPECT_EQ(match(blocks), (Depths{10, 0}));
}

// pitfalls R15: no credit behind a hole; and none is lost when it closes.
TEST_F(PrefixIndexTest, R15_AHoleEndsTheMatchAndClosingItRestoresIt) {
  const std::vector<StoredBlock> blocks = chain(1, 30);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  index_.stored(1, Tier::kDevice, std::nullopt, blocks);
  const std::vector<std::uint64_t> middle = aliases_of(std::span(blocks).subspan(10, 5));
  index_.removed(0, Tier::kDevice, middle);
  EXPECT_EQ(match(blocks), (Depths{10, 30}));
  EXPECT_GT(index_.stats().splits, 0U);
  index_.check();
  index_.stored(0, Tier::kDevice, blocks[9].alias, std::span(blocks).subspan(10, 5));
  EXPECT_EQ(match(blocks), (Depths{30, 30}));
  EXPECT_EQ(index_.stats().runs, 1U) << "what was cut is joined again";
  EXPECT_EQ(index_.stats().merges, index_.stats().splits);
  index_.check();
}

TEST_F(PrefixIndexTest, RootFirstRemovalLeavesNothing) {
  const std::vector<StoredBlock> blocks = chain(1, 200);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  for (const std::uint64_t alias : aliases_of(blocks, false)) {
    index_.removed(0, Tier::kDevice, std::span(&alias, 1));
    index_.check();
    EXPECT_LE(index_.stats().runs, 2U);
  }
  EXPECT_EQ(index_.stats().blocks, 0U);
  EXPECT_EQ(index_.stats().runs, 0U);
}

TEST_F(PrefixIndexTest, UnknownRemovalsAreCountedAndStoresAreIdempotent) {
  const std::vector<StoredBlock> blocks = chain(1, 8);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  index_.removed(0, Tier::kHost, aliases_of(blocks));
  EXPECT_EQ(index_.stats().unknown_removals, 8U);
  index_.removed(1, Tier::kDevice, aliases_of(blocks));
  EXPECT_EQ(index_.stats().unknown_removals, 16U);
  EXPECT_EQ(match(blocks), (Depths{8, 0}));
  index_.removed(0, Tier::kDevice, aliases_of(blocks));
  EXPECT_EQ(index_.stats().blocks, 0U);
}

TEST_F(PrefixIndexTest, TiersAreHeldApartAndAddUp) {
  const std::vector<StoredBlock> blocks = chain(1, 30);
  index_.stored(0, Tier::kDevice, std::nullopt, blocks);
  index_.stored(0, Tier::kHost, blocks[9].alias, std::span(blocks).subspan(10, 10));
  index_.removed(0, Tier::kDevice, aliases_of(std::span(blocks).subspan(10)));
  EXPECT_EQ(match(blocks), Depths{10});
  EXPECT_EQ(match(blocks, tier_set(Tier::kHost)), Depths{0});
  Depths device(1), host(1), disk(1);
  index_.match(locals_of(blocks), {device, host, disk});
  EXPECT_EQ(device[0], 10U);
  EXPECT_EQ(host[0], 20U);
  EXPECT_EQ(disk[0], 20U);
  index_.check();
  index_.cleared(0);
  EXPECT_EQ(index_.stats().blocks, 0U);
}

TEST_F(PrefixIndexTest, SlotsBeyondTheLimitAreRefused) {
  index_.stored(100, Tier::kDevice, std::nullopt, chain(1, 3));
  index_.removed(~0U, Tier::kDevice, {});
  index_.cleared(100);
  EXPECT_EQ(index_.stats().slots_refused, 3U);
  EXPECT_EQ(index_.slots(), 0U);
  EXPECT_EQ(index_.shed_blocks(~0U), 0U);
}

TEST_F(PrefixIndexTest, ManyHoldersOfOneRunAndLongChains) {
  PrefixIndex index({.budget_bytes = 256U << 20, .slots_max = 30'000});
  const std::vector<StoredBlock> blocks = chain(1, 3000);  // several runs
  // Most hold little, some two runs.
  const auto held = [](Slot slot) { return 1 + (slot % 50 == 0 ? slot / 50 * 7 % 600 : slot % 9); };
  for (Slot slot = 0; slot < 20'000; ++slot) {
    index.stored(slot, Tier::kDevice, std::nullopt, std::span(blocks).first(held(slot)));
  }
  index.stored(3, Tier::kDevice, std::nullopt, blocks);
  Depths depths(20'000);
  index.match(locals_of(blocks), depths);
  for (Slot slot = 0; slot < 20'000; ++slot) {
    ASSERT_EQ(depths[slot], slot == 3 ? 3000 : held(slot));
  }
  index.check();
  for (Slot slot = 0; slot < 20'000; ++slot) index.cleared(slot);
  EXPECT_EQ(index.stats().blocks, 0U);
}

// pitfalls I1, I4: memory is bounded at every moment, and comes back.
TEST_F(PrefixIndexTest, I4_TheBudgetHoldsWhateverComesAndSheddingIsTold) {
  const std::size_t budget = 8U << 20;
  PrefixIndex index(options(budget));
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const std::vector<StoredBlock> blocks = chain(i % 50 == 0 ? 1 : i, 20 + i % 90);
    index.stored(i % 9, Tier::kDevice, std::nullopt, blocks);
    if (i % 100 == 0) {
      ASSERT_LE(index.stats().memory_bytes, budget);
    }
  }
  index.check();
  const PrefixIndex::Stats stats = index.stats();
  EXPECT_LE(stats.memory_bytes, budget);
  EXPECT_GT(stats.shed_runs, 0U);
  EXPECT_GT(stats.blocks, 100'000U) << "most of the budget is in use";
  std::uint64_t told = 0;
  for (Slot slot = 0; slot < 9; ++slot) told += index.shed_blocks(slot);
  EXPECT_EQ(told, stats.shed_memberships + stats.refused_blocks);
  // What was stored over and over again is still there, what came last too.
  Depths depths(9);
  index.match(locals_of(chain(19'999, 20 + 19'999 % 90)), depths);
  EXPECT_GT(depths[19'999 % 9], 0U);
  for (Slot slot = 0; slot < 9; ++slot) index.cleared(slot);
  index.check();
  EXPECT_EQ(index.stats().blocks, 0U);
}

TEST_F(PrefixIndexTest, MemoryIsReusedOverTurnovers) {
  std::uint64_t first = 0;
  for (std::uint64_t turn = 0; turn < 6; ++turn) {
    for (std::uint64_t i = 0; i < 3000; ++i) {
      const std::vector<StoredBlock> blocks = chain(turn * 3000 + i, 10 + i % 60);
      index_.stored(i % 7, Tier::kDevice, std::nullopt, blocks);
      if (turn == 0) continue;
      const std::vector<StoredBlock> old = chain((turn - 1) * 3000 + i, 10 + i % 60);
      index_.removed(i % 7, Tier::kDevice, aliases_of(old));
    }
    if (turn == 1) first = index_.stats().memory_bytes;
    if (turn > 1) {
      EXPECT_LE(index_.stats().memory_bytes, first * 1.05);
    }
  }
  index_.check();
}

TEST_F(PrefixIndexTest, M12_ASnapshotOfAnotherContextIsRefusedAndPositionsComeAlong) {
  index_.stored(4, Tier::kDevice, std::nullopt, chain(1, 9), {.epoch = 7, .sequence = 42});
  index_.stored(2, Tier::kHost, std::nullopt, chain(1, 5), {.epoch = 1, .sequence = 3});
  const std::vector<std::byte> bytes = index_.snapshot();
  PrefixIndex same(options());
  ASSERT_TRUE(same.restore(bytes).has_value());
  EXPECT_EQ(same.position(4), (EventPosition{7, 42}));
  EXPECT_EQ(same.position(2), (EventPosition{1, 3}));
  EXPECT_EQ(same.slots(), 5U);
  EXPECT_FALSE(same.restore(bytes).has_value()) << "it is no longer empty";
  same.removed(4, Tier::kDevice, aliases_of(chain(1, 9)));
  same.removed(2, Tier::kHost, aliases_of(chain(1, 5)));
  EXPECT_EQ(same.stats().blocks, 0U) << "what it was built with stands no more";
  PrefixIndex::Options other = options();
  other.context = "model|32";
  PrefixIndex different(other);
  EXPECT_EQ(different.restore(bytes).error().code, Code::kInvalidArgument);
  EXPECT_EQ(different.stats().blocks, 0U);
}

TEST_F(PrefixIndexTest, ASnapshotCutOrChangedIsAnErrorAndLeavesNothing) {
  index_.stored(0, Tier::kDevice, std::nullopt, chain(1, 9));
  index_.stored(1, Tier::kDevice, std::nullopt, chain(2, 3));
  const std::vector<std::byte> bytes = index_.snapshot();
  PrefixIndex target(options());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(target.restore(std::span(bytes).first(size)).has_value());
  }
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::vector<std::byte> changed = bytes;
    changed[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(target.restore(changed).has_value()) << bit;
  }
  EXPECT_EQ(target.stats().blocks, 0U);
  EXPECT_TRUE(target.restore(bytes).has_value());
}

}  // namespace
}  // namespace penstock::kv
