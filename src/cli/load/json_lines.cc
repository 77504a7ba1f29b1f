#include "cli/load/internal/json_lines.h"

#include <fmt/format.h>

#include <algorithm>

namespace penstock::cli::load {

Result<void> for_each_json_line(
    std::string_view text, const std::function<Result<void>(const simdjson::dom::element&)>& take) {
  simdjson::dom::parser parser;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    simdjson::dom::element element;
    const simdjson::error_code failure = parser.parse(line.data(), line.size()).get(element);
    if (failure) {
      return fail(Code::kInvalidArgument,
                  fmt::format("line {}: no JSON: {}", number, simdjson::error_message(failure)));
    }
    const Result<void> taken = take(element);
    if (!taken) {
      return fail(taken.error().code, fmt::format("line {}: {}", number, taken.error().message));
    }
  }
  return {};
}

}  // namespace penstock::cli::load
