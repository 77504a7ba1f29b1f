#include "base/ids.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>
#include <unordered_set>

namespace penstock {
namespace {

// What the type is for: one kind of id is not another, nor a number.
static_assert(!std::is_convertible_v<RequestId, WorkerId>);
static_assert(!std::is_convertible_v<WorkerId, RequestId>);
static_assert(!std::is_convertible_v<RequestId, std::uint64_t>);
static_assert(!std::is_convertible_v<std::uint64_t, RequestId>);
static_assert(sizeof(RequestId) == 8 && sizeof(WorkerId) == 4);
static_assert(std::is_trivially_copyable_v<RequestId>);

TEST(StrongId, ComparesByNumber) {
  EXPECT_EQ(RequestId{7}, RequestId{7});
  EXPECT_NE(RequestId{7}, RequestId{8});
  EXPECT_LT(RequestId{7}, RequestId{8});
  EXPECT_LT(WorkerId{0}, WorkerId{std::numeric_limits<std::uint32_t>::max()});
  EXPECT_EQ(RequestId{}.value, 0U);
}

TEST(StrongId, IsAKeyOfHashTables) {
  std::unordered_set<RequestId> ids;
  for (std::uint64_t i = 0; i < 1000; ++i) ids.insert(RequestId{i << 32});
  for (std::uint64_t i = 0; i < 1000; ++i) ids.insert(RequestId{i << 32});
  EXPECT_EQ(ids.size(), 1000U);
  EXPECT_TRUE(ids.contains(RequestId{std::uint64_t{999} << 32}));
  EXPECT_FALSE(ids.contains(RequestId{1}));
  EXPECT_EQ(std::hash<RequestId>{}(RequestId{12345}), std::hash<std::uint64_t>{}(12345));
}

}  // namespace
}  // namespace penstock
