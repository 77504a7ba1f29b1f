#include "api/internal/read_value.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace penstock::api {
namespace {

constexpr std::int64_t kTokenMax = std::numeric_limits<Token>::max();

/// Nothing when the token does not fit the type; it is a JSON number already.
template <class T>
std::optional<T> parse_number(std::string_view token) noexcept {
  T value{};
  const char* end = token.data() + token.size();
  const auto [stop, error] = std::from_chars(token.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_integer(std::string_view token) noexcept {
  if (const auto whole = parse_number<std::int64_t>(token)) return whole;
  constexpr double kExactMax = 9007199254740992;  // 2^53: beyond it doubles skip integers
  const auto real = parse_number<double>(token);
  if (!real || std::trunc(*real) != *real || std::abs(*real) > kExactMax) return std::nullopt;
  if (token.find_first_of(".eE") == std::string_view::npos) return std::nullopt;
  return static_cast<std::int64_t>(*real);
}

std::string describe(const FloatRange& range) {
  if (range.without_min) return fmt::format("a number above {} and up to {}", range.min, range.max);
  return fmt::format("a number between {} and {}", range.min, range.max);
}

bool is_empty(const TextOrTokens& value) {
  return std::visit([](const auto& held) { return held.empty(); }, value);
}

bool read_text_or_tokens(JsonReader& json, TextOrTokens& out) {
  if (json.type() == JsonType::kString) {
    if (!read_string(json, out.emplace<std::string>())) return false;
  } else if (!read_tokens(json, std::numeric_limits<std::size_t>::max(),
                          out.emplace<std::vector<Token>>())) {
    return false;
  }
  return !is_empty(out) || json.fail("must not be empty");
}

/// The rest of an array whose first element, a token id, is under the cursor.
bool read_token_array_rest(JsonReader& json, std::vector<Token>& out) {
  do {
    if (!read_token(json, out.emplace_back())) return false;
  } while (json.next_element());
  return json.ok();
}

}  // namespace

bool read_bool(JsonReader& json, bool& out) {
  if (json.type() != JsonType::kBool) return json.expected("true or false");
  out = json.token() == "true";
  return true;
}

bool read_float(JsonReader& json, const FloatRange& range, float& out) {
  if (json.type() != JsonType::kNumber) return json.expected(describe(range));
  const auto value = parse_number<double>(json.token());
  if (!value || !(*value >= range.min && *value <= range.max)) {
    return json.expected(describe(range));
  }
  out = static_cast<float>(*value);
  // Compared as the float that will be used: a double just above the end may round to it.
  if (range.without_min && !(out > static_cast<float>(range.min))) {
    return json.expected(describe(range));
  }
  return true;
}

bool read_integer(JsonReader& json, std::int64_t min, std::int64_t max, std::int64_t& out) {
  const auto value = json.type() == JsonType::kNumber ? parse_integer(json.token()) : std::nullopt;
  if (!value || *value < min || *value > max) {
    return json.expected(fmt::format("an integer between {} and {}", min, max));
  }
  out = *value;
  return true;
}

bool read_seed(JsonReader& json, std::uint32_t& out) {
  if (json.type() == JsonType::kNumber) {
    std::optional<std::uint64_t> bits = parse_number<std::uint64_t>(json.token());
    if (!bits) {
      if (const auto value = parse_integer(json.token())) bits = static_cast<std::uint64_t>(*value);
    }
    if (bits) {
      out = static_cast<std::uint32_t>(*bits ^ *bits >> 32);
      return true;
    }
  }
  return json.expected("an integer of 64 bits");
}

bool append_string(JsonReader& json, std::string& out) {
  if (json.type() != JsonType::kString) return json.expected_unseen("a string");
  out.append(json.string());
  return json.ok();
}

bool read_string(JsonReader& json, std::string& out) {
  out.clear();
  return append_string(json, out);
}

bool read_nonempty_string(JsonReader& json, std::string& out) {
  if (!read_string(json, out)) return false;
  return !out.empty() || json.fail("must not be empty");
}

bool read_choice(JsonReader& json, std::span<const std::string_view> names, std::size_t& out) {
  if (json.type() == JsonType::kString) {
    const std::string_view given = json.string();
    if (!json.ok()) return false;
    for (out = 0; out < names.size(); ++out) {
      if (names[out] == given) return true;
    }
  }
  std::string what;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) what += i + 1 == names.size() ? " or " : ", ";
    what += fmt::format("\"{}\"", names[i]);
  }
  return json.expected(what);
}

bool read_object_text(JsonReader& json, std::string& out) {
  if (json.type() != JsonType::kObject) return json.expected_unseen("an object");
  out = json.raw();
  return json.ok();
}

bool read_token(JsonReader& json, Token& out) {
  if (json.type() != JsonType::kNumber) {
    return json.expected_unseen(fmt::format("a token id between 0 and {}", kTokenMax));
  }
  return read_int(json, 0, kTokenMax, out);
}

bool room_for_one(JsonReader& json, std::size_t count_max) {
  return json.index() < count_max || json.fail(fmt::format("more than {} entries", count_max));
}

bool read_tokens(JsonReader& json, std::size_t count_max, std::vector<Token>& out) {
  out.clear();
  if (json.type() != JsonType::kArray) return json.expected_unseen("an array of token ids");
  json.enter_array();
  while (json.next_element()) {
    if (!room_for_one(json, count_max) || !read_token(json, out.emplace_back())) return false;
  }
  return json.ok();
}

bool read_texts_or_tokens(JsonReader& json, std::size_t count_max, std::vector<TextOrTokens>& out) {
  out.clear();
  if (json.type() == JsonType::kString) return read_text_or_tokens(json, out.emplace_back());
  if (json.type() != JsonType::kArray) {
    return json.expected_unseen("a string, an array of strings or an array of token ids");
  }

  json.enter_array();
  JsonType first = JsonType::kNull;
  while (json.next_element()) {
    if (json.index() == 0) first = json.type();
    if (json.index() == 0 && first == JsonType::kNumber) {
      out.emplace_back(std::vector<Token>());
      return read_token_array_rest(json, std::get<std::vector<Token>>(out.back()));
    }
    const bool fits = first == JsonType::kString || first == JsonType::kArray;
    if (!fits) return json.expected_unseen("a string, a token id or an array of token ids");
    if (json.type() != first) return json.expected_unseen("the same as the entries before it");
    if (!room_for_one(json, count_max) || !read_text_or_tokens(json, out.emplace_back())) {
      return false;
    }
  }
  if (json.ok() && out.empty()) json.fail("must not be empty");
  return json.ok();
}

}  // namespace penstock::api
