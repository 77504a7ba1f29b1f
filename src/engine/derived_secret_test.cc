#include "engine/derived_secret.h"

#include <gtest/gtest.h>

namespace penstock::engine {
namespace {

// RFC 4231, test case 2.
TEST(DerivedSecret, IsAnHmac) {
  EXPECT_EQ(derived_secret("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

TEST(DerivedSecret, IsAnotherForEachPurposeAndNoneWithoutASecret) {
  EXPECT_NE(derived_secret("open sesame", "one"), derived_secret("open sesame", "two"));
  EXPECT_NE(derived_secret("open sesame", "one"), derived_secret("open barley", "one"));
  EXPECT_EQ(derived_secret("", "one"), "");
}

}  // namespace
}  // namespace penstock::engine
