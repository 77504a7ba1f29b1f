#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock {

/// Where somebody listens.
struct HostPort {
  std::string host;  // an IPv6 address keeps its brackets, so that host:port is an address again
  std::uint16_t port = 0;
};

/// "HOST:PORT", "127.0.0.1:7000", "[::1]:7000". Fails with kInvalidArgument and what is expected.
Result<HostPort> parse_host_port(std::string_view text);

/// The host of "HOST:PORT" as it is looked up: an IPv6 address without its brackets. Empty: `text`
/// is no address.
[[nodiscard]] std::string bare_host(std::string_view text);

/// Whether `host`, as in HostPort, is this machine and nobody else's: by its number, or localhost.
[[nodiscard]] bool is_loopback(std::string_view host);

}  // namespace penstock
