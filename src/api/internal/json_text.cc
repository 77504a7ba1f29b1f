#include "api/internal/json_text.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "api/openai.h"
#include "base/check.h"

namespace penstock::api {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// How append_json_string treats a byte: copied as it is, the start of a longer character, or
// escaped; for the short escapes the entry is the letter behind the backslash.
constexpr char kPlain = 0;
constexpr char kMultibyte = 1;
constexpr char kHexEscape = 2;

constexpr std::array<char, 256> kTreatment = [] {
  std::array<char, 256> table{};
  for (std::size_t byte = 0; byte < 0x20; ++byte) table[byte] = kHexEscape;
  for (std::size_t byte = 0x80; byte < 0x100; ++byte) table[byte] = kMultibyte;
  table['"'] = '"';
  table['\\'] = '\\';
  table['\b'] = 'b';
  table['\f'] = 'f';
  table['\n'] = 'n';
  table['\r'] = 'r';
  table['\t'] = 't';
  return table;
}();

unsigned char byte_at(std::string_view bytes, std::size_t index) noexcept {
  return static_cast<unsigned char>(bytes[index]);
}

bool is_continuation(unsigned char byte) noexcept { return (byte & 0xC0) == 0x80; }

void append_escape(std::string& out, unsigned char byte, char treatment) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out += '\\';
  if (treatment != kHexEscape) {
    out += treatment;
    return;
  }
  out.append("u00");
  out += kHex[byte >> 4];
  out += kHex[byte & 0xF];
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) noexcept {
  const unsigned char lead = byte_at(bytes, 0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};  // stray continuation, overlong, > U+10FFFF
  const std::size_t size_bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;

  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char second_min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char second_max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (bytes.size() < 2) return {1, false};
  const unsigned char second = byte_at(bytes, 1);
  if (second < second_min || second > second_max) return {1, false};
  for (std::size_t i = 2; i < size_bytes; ++i) {
    if (i == bytes.size() || !is_continuation(byte_at(bytes, i))) return {i, false};
  }
  return {size_bytes, true};
}

std::size_t utf8_error_offset(std::string_view bytes) noexcept {
  std::size_t offset = 0;
  while (offset < bytes.size()) {
    const Utf8Step step = utf8_step(bytes.substr(offset));
    if (!step.valid) break;
    offset += step.size_bytes;
  }
  return offset;
}

std::size_t utf8_length(std::string_view bytes) noexcept {
  return static_cast<std::size_t>(std::ranges::count_if(
      bytes, [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  std::size_t copied = 0;  // everything before it is in `out`
  std::size_t at = 0;
  const auto flush = [&] { out.append(text, copied, at - copied); };
  while (at < text.size()) {
    const unsigned char byte = byte_at(text, at);
    const char treatment = kTreatment[byte];
    if (treatment == kPlain) {
      ++at;
    } else if (treatment == kMultibyte) {
      const Utf8Step step = utf8_step(text.substr(at));
      if (!step.valid) {
        flush();
        out.append(kReplacement);
        copied = at + step.size_bytes;
      }
      at += step.size_bytes;
    } else {
      flush();
      append_escape(out, byte, treatment);
      copied = ++at;
    }
  }
  flush();
  out += '"';
}

void append_float(std::string& out, float value) {
  CHECK(std::isfinite(value));
  char digits[32];
  const char* end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  out.append(digits, static_cast<std::size_t>(end - digits));
}

void append_base64(std::string& out, std::span<const unsigned char> bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  out.reserve(out.size() + (bytes.size() + 2) / 3 * 4);
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const std::size_t size = std::min<std::size_t>(3, bytes.size() - at);
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) group = group << 8 | (i < size ? bytes[at + i] : 0U);
    for (std::size_t i = 0; i < 4; ++i) {
      out += i <= size ? kAlphabet[group >> (18 - 6 * i) & 0x3F] : '=';
    }
  }
}

}  // namespace penstock::api
