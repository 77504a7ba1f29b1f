#pragma once

#include <string_view>

#include "net/http_server.h"

namespace penstock::serve {

/// The W3C traceparent that a request came with, as it came; empty: none, or none that is valid (of
/// version 00).
[[nodiscard]] std::string_view traceparent_of(const net::HttpRequest& request) noexcept;

/// The trace's id in it: 32 hex digits; of an empty one empty.
[[nodiscard]] inline std::string_view trace_id_of(std::string_view traceparent) noexcept {
  return traceparent.empty() ? traceparent : traceparent.substr(3, 32);
}

}  // namespace penstock::serve
