// The small parts that admission is made of: keys, fame, wear, costs, the breaker; how large files
// are.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"
#include "tiers/budget.h"
#include "tiers/frequency_sketch.h"
#include "tiers/read_cost.h"
#include "tiers/record.h"

namespace penstock::tiers {
namespace {

using namespace std::chrono_literals;

TEST(Key, NamesAllTokensTheTenantAndTheMeaning) {
  const std::vector<Token> tokens{1, 2, 3};
  const Key root = root_key("model", "");
  const Key first = next_key(root, tokens);
  EXPECT_EQ(first, next_key(root_key("model", ""), tokens));
  EXPECT_NE(first, next_key(root_key("model", "tenant"), tokens));
  EXPECT_NE(first, next_key(root_key("model2", ""), tokens));
  EXPECT_NE(root_key("ab", "c"), root_key("a", "bc"));
  EXPECT_NE(first, next_key(root, std::vector<Token>{1, 2, 4}));
  EXPECT_NE(first, next_key(first, tokens));
}

TEST(Key, NamesAPromptsFullBlocksAtOnceOrBitByBit) {
  const Key root = root_key("model", "");
  const std::vector<Token> prompt{1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<Key> all;
  name_blocks(root, prompt, 3, all);
  const Key first = next_key(root, std::vector<Token>{1, 2, 3});
  EXPECT_EQ(all, (std::vector<Key>{first, next_key(first, std::vector<Token>{4, 5, 6})}));
  std::vector<Key> some;
  for (std::size_t tokens = 0; tokens <= prompt.size(); ++tokens) {
    name_blocks(root, std::span(prompt).first(tokens), 3, some);
    EXPECT_EQ(some.size(), tokens / 3);
  }
  EXPECT_EQ(some, all);
}

Key key(std::uint64_t i) { return {mix64(i), mix64(~i)}; }

TEST(FrequencySketch, NeverSaysLessThanTheTruth) {
  FrequencySketch sketch(16'000);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    for (std::uint64_t n = 0; n <= i % 10; ++n) sketch.add(key(i));
  }
  std::uint64_t over = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ASSERT_GE(sketch.estimate(key(i)), i % 10 + 1);
    over += sketch.estimate(key(i)) - (i % 10 + 1);
  }
  EXPECT_LE(over, 100U);
}

TEST(FrequencySketch, OldFameFades) {
  FrequencySketch sketch(512);
  for (int n = 0; n < 100; ++n) sketch.add(key(1));
  EXPECT_EQ(sketch.estimate(key(1)), 15U);
  for (std::uint64_t i = 0; i < 512; ++i) sketch.add(key(10 + i));
  EXPECT_LT(sketch.estimate(key(1)), 8U);
}

TEST(WearBudget, IsADaysBytesAndFillsEvenly) {
  TimePoint now{};
  WearBudget budget(1000, 0, now);
  EXPECT_TRUE(budget.allows(1000, now));
  EXPECT_FALSE(budget.allows(1001, now));
  budget.spend(600, now);
  EXPECT_EQ(budget.spent_bytes(now), 600U);
  EXPECT_TRUE(budget.is_short(now));
  now += 12h;
  EXPECT_TRUE(budget.allows(899, now));
  EXPECT_FALSE(budget.allows(901, now));
  now += 1000h;
  EXPECT_FALSE(budget.allows(1001, now));
  EXPECT_FALSE(WearBudget(1000, 5000, now).allows(1, now));
  WearBudget none(0, 0, now);
  none.spend(1000, now);
  EXPECT_EQ(none.spent_bytes(now), 0U);
  EXPECT_TRUE(none.allows(1 << 30, now));
  EXPECT_FALSE(none.is_short(now));
}

TEST(Breaker, OpensAfterFailuresInARowAndWaitsLongerEachTime) {
  TimePoint now{};
  Breaker breaker;
  breaker.failed(now);
  breaker.failed(now);
  breaker.succeeded();
  breaker.failed(now);
  breaker.failed(now);
  EXPECT_TRUE(breaker.allows(now));
  breaker.failed(now);
  EXPECT_FALSE(breaker.allows(now + 999ms));
  now += 1s;
  EXPECT_TRUE(breaker.allows(now));
  breaker.failed(now);
  EXPECT_FALSE(breaker.allows(now + 1999ms));
  now += 2s;
  EXPECT_TRUE(breaker.allows(now));
  for (int i = 0; i < 100; ++i) breaker.failed(now);
  EXPECT_TRUE(breaker.allows(now + 1min));
  breaker.succeeded();
  breaker.failed(now + 2min);
  EXPECT_TRUE(breaker.allows(now + 2min));
}

TEST(ReadCost, IsQuickUntilMeasuredAndForgetsThatItWasSlow) {
  constexpr double kQuick = 1e4;
  constexpr double kSlow = 1e9;
  TimePoint now;
  ReadCost cost(kQuick);
  EXPECT_EQ(cost.ns(now + 1h), kQuick);
  cost.measured(kSlow, now);
  EXPECT_EQ(cost.ns(now), kSlow);
  for (int minutes = 1; minutes <= 20; ++minutes) {
    now += 1min;
    EXPECT_NEAR(cost.ns(now), kQuick + (kSlow - kQuick) / std::exp2(minutes), 1);
  }
  // A quick one then counts, and what was forgotten does not come back.
  cost.measured(kQuick, now);
  EXPECT_LT(cost.ns(now), 2 * kQuick);
  for (int i = 0; i < 50; ++i) cost.measured(kQuick / 2, now);
  EXPECT_NEAR(cost.ns(now + 24h), kQuick / 2, 1);  // only slowness is doubted
}

TEST(Geometry, OfAFileIsItsOwnAndFilesAreFew) {
  for (const std::uint32_t block : {1U, 4000U, 8000U, 65536U, 1474560U, 1U << 28}) {
    for (std::uint64_t bytes = 1; bytes < 1ULL << 34; bytes = bytes * 3 + 1) {
      const Geometry made = Geometry::of(block, bytes);
      const Geometry again = Geometry::of(block, made.segment_bytes);
      ASSERT_EQ(made.records, again.records) << block << " in " << bytes;
      ASSERT_EQ(made.segment_bytes, again.segment_bytes);
    }
  }
  EXPECT_EQ(segment_bytes_for(8ULL << 30), kSegmentBytesMin);
  for (std::uint64_t bytes = 1ULL << 30; bytes < 1ULL << 48; bytes *= 3) {
    EXPECT_LE(bytes / segment_bytes_for(bytes), kSegmentsMax);
  }
}

}  // namespace
}  // namespace penstock::tiers
