#include "cli/join_flags.h"

#include <gtest/gtest.h>

namespace penstock::cli {
namespace {

TEST(JoinFlags, OnlyTheLoopbackNeedsNoSecret) {
  for (const char* address : {"127.0.0.1:7000", "localhost:7000", "[::1]:7000"}) {
    EXPECT_TRUE(check_secret("--listen", address, "")) << address;
  }
  for (const char* address : {"0.0.0.0:7000", "10.0.0.1:7000", "[::]:7000", "127.evil:7000"}) {
    EXPECT_FALSE(check_secret("--listen", address, "")) << address;
    EXPECT_TRUE(check_secret("--listen", address, "secret")) << address;
  }
}

TEST(JoinFlags, ASecretMustFitIntoAHeader) {
  EXPECT_FALSE(check_secret("--listen", "127.0.0.1:7000", "two words"));
  EXPECT_FALSE(check_secret("--listen", "127.0.0.1:7000", "sch\xc3\xb6n"));
}

TEST(JoinFlags, WhatIsNoAddressIsRefusedWhateverTheSecret) {
  for (const char* address : {":7000", "7000", "::1:7000", "host:port"}) {
    EXPECT_FALSE(check_secret("--listen", address, "secret")) << address;
  }
}

}  // namespace
}  // namespace penstock::cli
