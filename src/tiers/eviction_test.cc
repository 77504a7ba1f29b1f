#include <gtest/gtest.h>

#include "tiers/for_test.h"
#include "tiers/store.h"

namespace penstock::tiers {
namespace {

using testing::key_of;

TEST(Eviction, WhatIsInUseDoesNotHideWhatIsNot) {
  constexpr std::uint64_t kSlots = 1000;
  constexpr std::uint64_t kInUse = 900;
  const testing::TestClock clock;
  Options options;
  options.compatibility = "model";
  options.block_bytes = testing::kBlockBytes;
  options.host_bytes = kSlots * testing::kRecordBytes;
  const auto store = Store::open(options, clock).value();
  std::vector<Key> keys;
  for (std::uint64_t i = 0; store->stats().host_blocks < store->stats().host_blocks_max; ++i) {
    ASSERT_TRUE(testing::put(*store, i, Keep::kHeld));
    keys.push_back(key_of(i));
  }
  const std::span in_use = std::span(keys).first(kInUse);
  const std::span others = std::span(keys).subspan(kInUse);
  const std::vector<Store::Pin> pins = store->fetch(in_use, Deadline()).take();
  ASSERT_EQ(pins.size(), in_use.size());
  ASSERT_EQ(store->fetch(others, Deadline()).take().size(), others.size());  // asked for after them
  for (std::uint64_t i = 0; i < others.size(); ++i) {
    EXPECT_TRUE(testing::put(*store, 10'000 + i, Keep::kHeld)) << i;
  }
  for (const Key& key : in_use) EXPECT_TRUE(store->in_host(key));
}

}  // namespace
}  // namespace penstock::tiers
