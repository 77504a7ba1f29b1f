// How prompts are cut: each row in a part, and at a place in it, where it rounds as it would alone.
#include "engine/llama/batch_shape.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/rng.h"

namespace penstock::engine::llama {
namespace {

/// What is computed of a prompt from `begin` on is cut where it would be, at whole groups, and of
/// each part that is tiled alone enough rows are computed at once.
void check_parts(std::uint32_t begin, std::uint32_t prompt, Rng& rng) {
  std::uint32_t computed = begin;
  while (computed < prompt) {
    EXPECT_EQ(computed % kRowGroup, 0U) << begin << " of " << prompt;
    const auto budget = static_cast<std::uint32_t>(rng.below(700));
    const std::uint32_t rows = next_rows(computed, prompt, budget);
    ASSERT_GE(rows, 1U);
    const std::uint32_t part_start = computed / kPartRows * kPartRows;
    const std::uint32_t part_end = std::min(prompt, part_start + kPartRows);
    ASSERT_LE(computed + rows, part_end);
    if (part_end - part_start >= kTiledRows) {
      EXPECT_GE(rows, kTiledRows) << begin << " of " << prompt;
    } else {
      EXPECT_EQ(rows, part_end - part_start) << begin << " of " << prompt;
    }
    computed += rows;
  }
}

TEST(BatchShape, EveryRowGoesTheWayThatItWouldGoAlone) {
  Rng rng(5);
  for (int i = 0; i < 20'000; ++i) {
    const auto prompt = static_cast<std::uint32_t>(1 + rng.below(1700));
    const auto matched = static_cast<std::uint32_t>(rng.below(prompt + 1));
    check_parts(0, prompt, rng);
    for (const std::uint32_t block : {1U, 10U, 16U, 64U}) {
      const std::uint32_t reused = reusable_tokens(prompt, matched, block, true);
      ASSERT_LE(reused, matched);
      ASSERT_LT(reused, prompt);
      check_parts(reused, prompt, rng);
    }
  }
}

TEST(BatchShape, WithoutExactAllButOneTokenIsReused) {
  EXPECT_EQ(reusable_tokens(100, 100, 1, false), 99U);
  EXPECT_EQ(reusable_tokens(100, 77, 1, false), 77U);
  EXPECT_EQ(reusable_tokens(128, 128, 64, false), 64U);
  EXPECT_EQ(reusable_tokens(0, 0, 1, false), 0U);
}

TEST(BatchShape, WithExactAsMuchAsLeavesATiledPart) {
  EXPECT_EQ(reusable_tokens(700, 699, 1, true), 624U);  // 76 rows, at a whole group
  EXPECT_EQ(reusable_tokens(700, 300, 1, true), 288U);
  EXPECT_EQ(reusable_tokens(520, 519, 1, true), 512U);  // eight go by row in any case
  EXPECT_EQ(reusable_tokens(512, 511, 1, true), 448U);
}

TEST(BatchShape, WholeGroupsOfTiledPartsAreSettled) {
  EXPECT_EQ(settled_tokens(63), 0U);
  EXPECT_EQ(settled_tokens(100), 96U);
  EXPECT_EQ(settled_tokens(512), 512U);
  EXPECT_EQ(settled_tokens(540), 512U);
  EXPECT_EQ(settled_tokens(600), 592U);
}

TEST(BatchShape, WholeGroupsAreNoFewerThanATile) {
  EXPECT_EQ(whole_groups(1), kTiledRows);
  EXPECT_EQ(whole_groups(64), 64U);
  EXPECT_EQ(whole_groups(65), 80U);
  EXPECT_EQ(whole_groups(160), 160U);
}

}  // namespace
}  // namespace penstock::engine::llama
