#include "base/host_port.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>

namespace penstock {

Result<HostPort> parse_host_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  const std::string_view host = text.substr(0, colon);
  const std::string_view digits = colon < text.size() ? text.substr(colon + 1) : "";
  const bool bracketed = host.starts_with('[') && host.ends_with(']') && host.size() > 2;
  const bool plain = !host.empty() && host.find_first_of(":[]") == std::string_view::npos;
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  const bool is_port = error == std::errc() && end == digits.data() + digits.size();
  if (is_port && (bracketed || plain)) return HostPort{std::string(host), port};
  return fail(Code::kInvalidArgument,
              fmt::format("{}: expected HOST:PORT, such as 127.0.0.1:7000 or [::1]:7000", text));
}

std::string bare_host(std::string_view text) {
  const Result<HostPort> at = parse_host_port(text);
  if (!at) return {};
  return at->host.starts_with('[') ? at->host.substr(1, at->host.size() - 2) : at->host;
}

bool is_loopback(std::string_view host) {
  if (host == "localhost") return true;
  in6_addr six{};
  if (host.starts_with('[') && host.ends_with(']')) {
    const std::string inside(host.substr(1, host.size() - 2));
    return inet_pton(AF_INET6, inside.c_str(), &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six) != 0;
  }
  in_addr four{};
  return inet_pton(AF_INET, std::string(host).c_str(), &four) == 1 &&
         ntohl(four.s_addr) >> 24 == 127;
}

}  // namespace penstock
