#include "serve/trace_context.h"

namespace penstock::serve {

std::string_view traceparent_of(const net::HttpRequest& request) noexcept {
  // Version, the trace's id, its parent's, flags.
  constexpr std::string_view kShape = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
  const std::string_view text = request.header("traceparent");
  if (text.size() != kShape.size()) return {};
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
    if (kShape[i] == 'x' ? !hex : text[i] != kShape[i]) return {};
  }
  const auto is_zero = [](std::string_view id) { return id.find_first_not_of('0') == id.npos; };
  return is_zero(text.substr(3, 32)) || is_zero(text.substr(36, 16)) ? std::string_view() : text;
}

}  // namespace penstock::serve
