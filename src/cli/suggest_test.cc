#include "cli/suggest.h"

#include <gtest/gtest.h>

namespace penstock::cli {
namespace {

TEST(SuggestTest, NearNamesAreSuggestedAndFarOnesAreNot) {
  const std::vector<std::string> names = {"--port", "--host", "--workers", "serve", "bench"};
  EXPECT_EQ(closest("--prot", names), "--port");
  EXPECT_EQ(closest("--worker", names), "--workers");
  EXPECT_EQ(closest("sevre", names), "serve");
  EXPECT_EQ(closest("--frobnicate", names), "");
  EXPECT_EQ(closest("--port", names), "");
}

}  // namespace
}  // namespace penstock::cli
