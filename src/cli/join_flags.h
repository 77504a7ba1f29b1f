#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::cli {

/// "127.0.0.1" of "127.0.0.1:7000"; "[::1]" of "[::1]:7000".
[[nodiscard]] inline std::string_view host_part(std::string_view address) {
  return address.substr(0, std::min(address.rfind(':'), address.size()));
}

/// Between workers and front ends, whoever can connect is trusted: on other interfaces than the
/// loopback that must be those who know a secret. Fails with which flag to set.
[[nodiscard]] inline Result<void> check_secret(std::string_view flag, std::string_view address,
                                               std::string_view secret) {
  const bool printable =
      std::ranges::all_of(secret, [](unsigned char c) { return c > ' ' && c < 0x7F; });
  if (!printable) {
    return fail(Code::kInvalidArgument, "--join-secret: expected printable ASCII without blanks");
  }
  const std::string_view host = host_part(address);
  const bool loopback = host.starts_with("127.") || host == "localhost" || host == "[::1]";
  if (loopback || !secret.empty()) return {};
  return fail(Code::kInvalidArgument,
              std::string(flag) + " " + std::string(address) +
                  ": others can connect there, so --join-secret (or PENSTOCK_JOIN_SECRET) is "
                  "needed, the same for workers and front end");
}

}  // namespace penstock::cli
