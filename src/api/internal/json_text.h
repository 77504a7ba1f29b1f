#pragma once

#include <charconv>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace penstock::api {

/// What stands at the front of some bytes: a whole UTF-8 character, or bytes that can be none.
struct Utf8Step {
  std::size_t size_bytes = 0;  // of the character, or of the longest broken start of one
  bool valid = false;
};

/// `bytes` must not be empty.
[[nodiscard]] Utf8Step utf8_step(std::string_view bytes) noexcept;

/// Offset of the first byte that is no part of valid UTF-8; bytes.size() if there is none.
[[nodiscard]] std::size_t utf8_error_offset(std::string_view bytes) noexcept;

/// Characters in `bytes`; a continuation byte counts with the character it belongs to.
[[nodiscard]] std::size_t utf8_length(std::string_view bytes) noexcept;

template <std::integral Int>
void append_int(std::string& out, Int value) {
  char digits[24];
  const char* end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out.append(digits, static_cast<std::size_t>(end - digits));
}

/// Shortest decimal that reads back as the same float. `value` must be finite.
void append_float(std::string& out, float value);

/// Standard alphabet with padding (RFC 4648 section 4).
void append_base64(std::string& out, std::span<const unsigned char> bytes);

}  // namespace penstock::api
