#include "tiers/admission.h"

#include <gtest/gtest.h>

namespace penstock::tiers {
namespace {

constexpr DiskBid kWanted{.recompute_ns = 100, .read_ns = 10, .asked = 1};

TEST(Admission, ABlockMustBeQuickerToReadThanToCompute) {
  EXPECT_EQ(refusal(kWanted), std::nullopt);
  DiskBid bid = kWanted;
  bid.read_ns = 100;
  EXPECT_EQ(refusal(bid), Reason::kNotWorth);
}

TEST(Admission, WhatWasAskedForOnceIsNotWrittenWhenWritesAreShort) {
  DiskBid bid = kWanted;
  bid.wear_short = true;
  EXPECT_EQ(refusal(bid), Reason::kWear);
  bid.asked = 2;
  EXPECT_EQ(refusal(bid), std::nullopt);
  bid.wear_spent = true;
  EXPECT_EQ(refusal(bid), Reason::kWear);
}

TEST(Admission, OnAFullDiskItMustBeWorthMoreThanWhatGoes) {
  DiskBid bid = kWanted;
  bid.oldest_value = 300;
  EXPECT_EQ(refusal(bid), std::nullopt);
  bid.full = true;
  bid.asked = 3;
  EXPECT_EQ(refusal(bid), Reason::kCold);
  bid.asked = 4;
  EXPECT_EQ(refusal(bid), std::nullopt);
}

TEST(Admission, WhatIsKeptIsWorthWhatItWasAskedForAgain) {
  EXPECT_EQ(kept_value(100, 0), 0);
  EXPECT_EQ(kept_value(100, 1), 0);
  EXPECT_EQ(kept_value(100, 3), 200);
}

}  // namespace
}  // namespace penstock::tiers
