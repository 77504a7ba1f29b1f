#include "base/complaint.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

using namespace std::chrono_literals;

TEST(Complaint, IsHeardAtOnceAndThenOnceAMinute) {
  TimePoint now{};
  Complaint complaint;
  EXPECT_EQ(complaint.raise(now), 1U);
  EXPECT_FALSE(complaint.raise(now));
  now += 59s;
  EXPECT_FALSE(complaint.raise(now));
  now += 1s;
  EXPECT_EQ(complaint.raise(now), 3U);
  EXPECT_FALSE(complaint.raise(now));
}

TEST(Complaint, OfSomethingElseIsHeardAtOnce) {
  const TimePoint now{};
  Complaint complaint;
  EXPECT_EQ(complaint.raise(now, "lost"), 1U);
  EXPECT_FALSE(complaint.raise(now, "lost"));
  EXPECT_EQ(complaint.raise(now, "refused"), 2U);
  EXPECT_FALSE(complaint.raise(now, "refused"));
}

}  // namespace
}  // namespace penstock
