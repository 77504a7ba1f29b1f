#include "transfer/layout.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "base/rng.h"

namespace penstock::transfer {
namespace {

TEST(Layout, PartsLieWhereTheFormulaSays) {
  const Layout by_block = Layout::by_block(10, 4, 64);
  EXPECT_EQ(by_block.at(3, 2), (3 * 4 + 2) * 64U);
  EXPECT_EQ(by_block.end_bytes(), 10 * 4 * 64U);
  const Layout by_part = Layout::by_part(10, 4, 64);
  EXPECT_EQ(by_part.at(3, 2), (2 * 10 + 3) * 64U);
  EXPECT_EQ(by_part.end_bytes(), by_block.end_bytes());
}

TEST(Layout, RefusesWhatEndsBeyondItsMemory) {
  const Layout layout = Layout::by_block(10, 4, 64);
  EXPECT_TRUE(layout.validate(2560).has_value());
  EXPECT_FALSE(layout.validate(2559).has_value());
  Layout huge = layout;
  huge.slot_stride_bytes = UINT64_MAX / 4;  // 9 of them overflow 64 bits
  EXPECT_FALSE(huge.validate(UINT64_MAX).has_value());
  for (const Layout& empty : {Layout::by_block(0, 4, 64), Layout::by_block(1, 0, 64),
                              Layout::by_block(1, 4, 0), Layout::by_block(1, 5000, 64)}) {
    EXPECT_FALSE(empty.validate(UINT64_MAX).has_value());
  }
}

TEST(Layout, AcceptsNoOverlap) {
  Rng rng(5);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    Layout layout;
    layout.slots = 1 + rng.below(5);
    layout.parts = 1 + rng.below(5);
    layout.part_bytes = 1 + rng.below(8);
    layout.slot_stride_bytes = rng.below(40);
    layout.part_stride_bytes = rng.below(40);
    if (!layout.validate(1000)) continue;
    ++accepted;
    std::array<int, 1000> used{};
    for (std::uint32_t slot = 0; slot < layout.slots; ++slot) {
      for (std::uint32_t part = 0; part < layout.parts; ++part) {
        for (std::uint32_t i = 0; i < layout.part_bytes; ++i) {
          ASSERT_EQ(used[layout.at(slot, part) + i]++, 0);
        }
      }
    }
  }
  EXPECT_GT(accepted, 1000);
}

TEST(Layout, APlanNeedsTheSameParts) {
  EXPECT_TRUE(check_plan(Layout::by_block(4, 8, 64), Layout::by_part(9, 8, 64)).has_value());
  EXPECT_FALSE(check_plan(Layout::by_block(4, 8, 64), Layout::by_block(4, 4, 128)).has_value());
}

}  // namespace
}  // namespace penstock::transfer
