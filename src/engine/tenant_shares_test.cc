#include "engine/tenant_shares.h"

#include <gtest/gtest.h>

namespace penstock::engine {
namespace {

TEST(TenantShares, ANewcomerStartsLevelWithTheLeastServed) {
  TenantShares shares;
  shares.came(1);
  shares.serve(1, 100);
  shares.came(2);
  EXPECT_EQ(shares.served(2), 100);
  shares.serve(1, 50);
  shares.came(3);
  EXPECT_EQ(shares.served(3), 100);
}

TEST(TenantShares, NobodyIsRememberedWithoutRequests) {
  TenantShares shares;
  shares.came(1);
  shares.came(1);
  shares.serve(1, 100);
  shares.left(1);
  EXPECT_EQ(shares.served(1), 100);
  shares.left(1);
  EXPECT_EQ(shares.tenants(), 0U);
  shares.came(1);
  EXPECT_EQ(shares.served(1), 0);
}

}  // namespace
}  // namespace penstock::engine
