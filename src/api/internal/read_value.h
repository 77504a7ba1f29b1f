#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/internal/json_reader.h"
#include "base/ids.h"

namespace penstock::api {

/// Typed reads of the value under a JsonReader's cursor. Each returns false, with the reader failed
/// and `out` unspecified, when the value is not what the name says.

struct FloatRange {
  double min = 0;
  double max = 0;
  bool without_min = false;  // the range is open at its lower end
};

bool read_bool(JsonReader& json, bool& out);
bool read_float(JsonReader& json, const FloatRange& range, float& out);

/// A number without a fraction; "8.0" and "8e0" are such numbers too.
bool read_integer(JsonReader& json, std::int64_t min, std::int64_t max, std::int64_t& out);

template <class Int>
bool read_int(JsonReader& json, std::int64_t min, std::int64_t max, Int& out) {
  std::int64_t value = 0;
  if (!read_integer(json, min, max, value)) return false;
  out = static_cast<Int>(value);
  return true;
}

/// Any integer of 64 bits, signed or not, folded to 32: one below 2^32 stays itself.
bool read_seed(JsonReader& json, std::uint32_t& out);

/// Errors never show the text, which may be a prompt.
bool read_string(JsonReader& json, std::string& out);
bool append_string(JsonReader& json, std::string& out);
bool read_nonempty_string(JsonReader& json, std::string& out);

/// One of `names`; `out` is its position.
bool read_choice(JsonReader& json, std::span<const std::string_view> names, std::size_t& out);

/// An object, kept as the JSON text that the client wrote.
bool read_object_text(JsonReader& json, std::string& out);

bool read_token(JsonReader& json, Token& out);
bool read_tokens(JsonReader& json, std::size_t count_max, std::vector<Token>& out);

/// A string, an array of strings, an array of token ids, or an array of such arrays; none of them
/// may be empty. `what` says this in an error.
using TextOrTokens = std::variant<std::string, std::vector<Token>>;
bool read_texts_or_tokens(JsonReader& json, std::size_t count_max, std::vector<TextOrTokens>& out);

/// Fails when the array that is being read already has `count_max` entries.
bool room_for_one(JsonReader& json, std::size_t count_max);

}  // namespace penstock::api
