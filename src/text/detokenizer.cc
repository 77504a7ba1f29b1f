#include "text/detokenizer.h"

namespace penstock::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Lead {
  int length;               // bytes of the character, 0: no lead byte
  unsigned char low, high;  // allowed range of the second byte
};

/// Table 3-7 of the Unicode standard: well-formed UTF-8 byte sequences.
Lead lead_of(unsigned char b) {
  if (b < 0x80) return {1, 0, 0};
  if (b >= 0xC2 && b <= 0xDF) return {2, 0x80, 0xBF};
  if (b == 0xE0) return {3, 0xA0, 0xBF};
  if (b == 0xED) return {3, 0x80, 0x9F};
  if (b >= 0xE1 && b <= 0xEF) return {3, 0x80, 0xBF};
  if (b == 0xF0) return {4, 0x90, 0xBF};
  if (b >= 0xF1 && b <= 0xF3) return {4, 0x80, 0xBF};
  if (b == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

std::size_t append_utf8(std::string_view bytes, std::string& out) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    const auto byte_at = [&](std::size_t k) { return static_cast<unsigned char>(bytes[k]); };
    const Lead lead = lead_of(byte_at(i));
    if (lead.length == 0) {
      out += kReplacement;
      ++i;
      continue;
    }
    int good = 1;
    while (good < lead.length && i + static_cast<std::size_t>(good) < bytes.size()) {
      const unsigned char b = byte_at(i + static_cast<std::size_t>(good));
      const bool fits = good == 1 ? (b >= lead.low && b <= lead.high) : (b >= 0x80 && b <= 0xBF);
      if (!fits) break;
      ++good;
    }
    if (good == lead.length) {
      out.append(bytes, i, static_cast<std::size_t>(good));
    } else if (i + static_cast<std::size_t>(good) == bytes.size()) {
      return static_cast<std::size_t>(good);  // may still become a character
    } else {
      out += kReplacement;
    }
    i += static_cast<std::size_t>(good);
  }
  return 0;
}

void Detokenizer::add(std::string_view bytes, std::string& out) {
  if (waiting_.empty()) {
    const std::size_t left = append_utf8(bytes, out);
    waiting_.assign(bytes.substr(bytes.size() - left));
    return;
  }
  waiting_ += bytes;
  const std::size_t left = append_utf8(waiting_, out);
  waiting_.erase(0, waiting_.size() - left);
}

void Detokenizer::finish(std::string& out) {
  if (!waiting_.empty()) out += kReplacement;
  waiting_.clear();
}

}  // namespace penstock::text
