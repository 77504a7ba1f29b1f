#include "base/check.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(Check, PassesWhatHolds) {
  CHECK(1 + 1 == 2);
  CHECK_EQ(2, 2);
  CHECK_LE(2, 2);
  CHECK_LT(1, 2);
  CHECK_GE(2, 2);
}

TEST(Check, EvaluatesItsOperandsOnce) {
  int calls = 0;
  const auto next = [&calls] { return ++calls; };
  CHECK_EQ(next(), 1);
  CHECK(next() == 2);
  EXPECT_EQ(calls, 2);
}

TEST(CheckDeathTest, SaysWhatFailedAndWhere) {
  const int blocks = 9;
  EXPECT_DEATH(CHECK(blocks < 8), "CHECK failed at .*check_test.cc:[0-9]+ .*: blocks < 8");
  EXPECT_DEATH(CHECK_LT(blocks, 8), "blocks < 8: 9 vs 8");
  EXPECT_DEATH(CHECK_LE(blocks, 8), "blocks <= 8: 9 vs 8");
  EXPECT_DEATH(CHECK_EQ(blocks, 8), "blocks == 8: 9 vs 8");
  EXPECT_DEATH(CHECK_GE(8, blocks), "8 >= blocks: 8 vs 9");
}

}  // namespace
}  // namespace penstock
