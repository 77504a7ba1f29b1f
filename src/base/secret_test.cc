#include "base/secret.h"

#include <gtest/gtest.h>

#include <string>

namespace penstock {
namespace {

TEST(Secret, IsTheSameOnlyToTheLastByte) {
  const std::string known("a\0secret", 8);
  EXPECT_TRUE(same_secret(known, known));
  for (std::size_t i = 0; i < known.size(); ++i) {
    std::string other = known;
    other[i] ^= 1;
    EXPECT_FALSE(same_secret(other, known)) << i;
  }
  EXPECT_FALSE(same_secret(known.substr(0, 7), known));
  EXPECT_FALSE(same_secret(known + '\0', known));  // as what is missing is compared
  EXPECT_FALSE(same_secret("", known));
  EXPECT_FALSE(same_secret(known, ""));
  EXPECT_TRUE(same_secret("", ""));
}

}  // namespace
}  // namespace penstock
