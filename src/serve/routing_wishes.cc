#include "serve/routing_wishes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>

namespace penstock::serve {
namespace {

constexpr std::string_view kLabels = "x-worker-labels";

/// Absent when the header is.
template <class Number>
Result<std::optional<Number>> read_number(const net::HttpRequest& request, std::string_view header,
                                          Number least, Number most) {
  const std::string_view text = request.header(header);
  if (text.empty()) return std::nullopt;
  Number number{};
  const char* const end = text.data() + text.size();
  const auto read = std::from_chars(text.data(), end, number);
  if (read.ec != std::errc{} || read.ptr != end || !(number >= least && number <= most)) {
    return fail(Code::kInvalidArgument,
                fmt::format("the header {} must be a number from {} to {}", header, least, most),
                std::string(header));
  }
  return number;
}

/// As one list, of all lines, without blanks around what is between commas.
std::string read_list(const net::HttpRequest& request, std::string_view header) {
  constexpr std::string_view kBlanks = " \t";
  std::string list;
  for (const auto& [name, value] : request.headers) {
    if (name != header || value.find_first_not_of(kBlanks) == std::string::npos) continue;
    for (std::size_t at = 0; at <= value.size();) {
      const std::size_t comma = std::min(value.find(',', at), value.size());
      std::string_view item = std::string_view(value).substr(at, comma - at);
      item.remove_prefix(std::min(item.find_first_not_of(kBlanks), item.size()));
      item = item.substr(0, item.find_last_not_of(kBlanks) + 1);
      if (!list.empty()) list += ',';
      list += item;
      at = comma + 1;
    }
  }
  return list;
}

}  // namespace

Result<RoutingWishes> read_routing_wishes(const net::HttpRequest& request) {
  RoutingWishes wishes;
  const auto rank = read_number<std::uint32_t>(request, "x-data-parallel-rank", 0, 1U << 20);
  if (!rank) return std::unexpected(rank.error());
  wishes.rank = *rank;
  Result<Labels> labels = parse_labels(read_list(request, kLabels));
  if (!labels) {
    return fail(Code::kInvalidArgument,
                fmt::format("the header {}: {}", kLabels, labels.error().message),
                std::string(kLabels));
  }
  wishes.labels = std::move(*labels);
  const auto ttft_ms = read_number<double>(request, "x-slo-ttft-ms", 0, 1e9);
  if (!ttft_ms) return std::unexpected(ttft_ms.error());
  if (*ttft_ms) {
    wishes.ttft_max =
        std::chrono::duration_cast<Nanos>(std::chrono::duration<double, std::milli>(**ttft_ms));
  }
  return wishes;
}

}  // namespace penstock::serve
