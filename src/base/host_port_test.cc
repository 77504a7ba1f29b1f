#include "base/host_port.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

TEST(HostPort, IsTakenApartAndNothingElseIs) {
  const auto both = [](std::string_view text) {
    const Result<HostPort> at = parse_host_port(text);
    return at ? at->host + " " + std::to_string(at->port) : "";
  };
  EXPECT_EQ(both("127.0.0.1:7000"), "127.0.0.1 7000");
  EXPECT_EQ(both("worker-7.cluster:0"), "worker-7.cluster 0");
  EXPECT_EQ(both("[::1]:65535"), "[::1] 65535");
  for (const char* wrong : {"", ":", "7000", "host", "host:", ":7000", "host:65536", "host:-1",
                            "host:70x", "host: 70", "::1:7000", "[::1]", "[]:1", "a]:1"}) {
    EXPECT_EQ(both(wrong), "") << wrong;
  }
}

TEST(HostPort, AHostIsLookedUpWithoutBrackets) {
  EXPECT_EQ(bare_host("[::1]:7000"), "::1");
  EXPECT_EQ(bare_host("worker-7:7000"), "worker-7");
  EXPECT_EQ(bare_host("worker-7"), "");
}

TEST(HostPort, TheLoopbackIsKnownByItsNumber) {
  for (const char* host : {"127.0.0.1", "127.255.0.9", "localhost", "[::1]"}) {
    EXPECT_TRUE(is_loopback(host)) << host;
  }
  for (const char* host : {"127.evil", "127.0.0.1.example", "10.0.0.1", "0.0.0.0", "[::]", "::1",
                           "[::1", "localhost.example", ""}) {
    EXPECT_FALSE(is_loopback(host)) << host;
  }
}

}  // namespace
}  // namespace penstock
