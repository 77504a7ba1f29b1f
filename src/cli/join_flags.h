#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "base/host_port.h"
#include "base/result.h"

namespace penstock::cli {

/// Between workers and front ends, whoever can connect is trusted: on other interfaces than the
/// loopback that must be those who know a secret. Fails with which flag to set.
[[nodiscard]] inline Result<void> check_secret(std::string_view flag, std::string_view address,
                                               std::string_view secret) {
  const std::string what = std::string(flag) + " " + std::string(address);
  const bool printable =
      std::ranges::all_of(secret, [](unsigned char c) { return c > ' ' && c < 0x7F; });
  if (!printable) {
    return fail(Code::kInvalidArgument, "--join-secret: expected printable ASCII without blanks");
  }
  const Result<HostPort> at = parse_host_port(address);
  if (!at) return fail(Code::kInvalidArgument, std::string(flag) + " " + at.error().message);
  if (is_loopback(at->host) || !secret.empty()) return {};
  return fail(Code::kInvalidArgument,
              what +
                  ": others can connect there, so --join-secret (or PENSTOCK_JOIN_SECRET) is "
                  "needed, the same for workers and front end");
}

}  // namespace penstock::cli
