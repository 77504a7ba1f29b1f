#include "base/labels.h"

#include <fmt/format.h>

#include <algorithm>

namespace penstock {
namespace {

constexpr std::size_t kLabelsMax = 16;
constexpr std::size_t kBytesMax = 63;

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= kBytesMax &&
         text.find_first_not_of(
             "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/") ==
             std::string_view::npos;
}

}  // namespace

Result<Labels> parse_labels(std::string_view text) {
  Labels labels;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    const std::string_view label = text.substr(0, comma);
    const std::size_t equals = std::min(label.find('='), label.size());
    const std::string_view name = label.substr(0, equals);
    const std::string_view value = label.substr(std::min(equals + 1, label.size()));
    const bool ends_with_comma = comma + 1 == text.size();
    if (!is_word(name) || !is_word(value) || ends_with_comma || labels.size() == kLabelsMax ||
        std::ranges::find(labels, name, &Labels::value_type::first) != labels.end()) {
      return fail(Code::kInvalidArgument,
                  fmt::format("'{}': expected NAME=VALUE, or several with commas between them: at "
                              "most {}, each name once, of up to {} letters, digits and . _ - /",
                              label, kLabelsMax, kBytesMax));
    }
    labels.emplace_back(name, value);
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return labels;
}

const std::string* find_label(const Labels& labels, std::string_view name) {
  const auto found = std::ranges::find(labels, name, &Labels::value_type::first);
  return found == labels.end() ? nullptr : &found->second;
}

std::string format_labels(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    out += fmt::format("{}{}={}", out.empty() ? "" : ",", name, value);
  }
  return out;
}

}  // namespace penstock
