#include "api/internal/json_text.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "api/openai.h"

namespace penstock::api {
namespace {

std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

/// What another JSON parser makes of our string.
std::string read_back(const std::string& json) {
  simdjson::dom::parser parser;
  std::string_view text;
  const auto error = parser.parse(json).get(text);
  EXPECT_EQ(error, simdjson::SUCCESS) << json;
  return std::string(text);
}

bool is_utf8(std::string_view bytes) { return simdjson::validate_utf8(bytes.data(), bytes.size()); }

/// Bytes that hit the interesting cases often: ASCII, what JSON escapes, leads and continuations.
std::string random_bytes(std::mt19937& random, std::size_t size) {
  std::string bytes;
  for (std::size_t i = 0; i < size; ++i) {
    switch (random() % 4) {
      case 0: bytes += static_cast<char>(random() % 0x20); break;
      case 1: bytes += static_cast<char>(0x20 + random() % 0x60); break;
      case 2: bytes += static_cast<char>(0x80 + random() % 0x40); break;
      default: bytes += static_cast<char>(0xC0 + random() % 0x40);
    }
  }
  return bytes;
}

TEST(JsonText, EscapesWhatJsonDemands) {
  EXPECT_EQ(json_string(""), R"("")");
  EXPECT_EQ(json_string("plain / text"), R"("plain / text")");
  EXPECT_EQ(json_string("a\"b\\c"), R"("a\"b\\c")");
  EXPECT_EQ(json_string("\b\f\n\r\t"), R"("\b\f\n\r\t")");
  EXPECT_EQ(json_string(std::string_view("\0\x01\x1f\x7f", 4)), "\"\\u0000\\u0001\\u001f\x7f\"");
  EXPECT_EQ(json_string("grüße 日本 🙂"), "\"grüße 日本 🙂\"");
}

// The examples of the Unicode standard, chapter 3, "U+FFFD substitution of maximal subparts".
TEST(JsonText, ReplacesMaximalBrokenParts) {
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(json_string("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"),
            '"' + r + r + r + r + r + r + r + r + "A\"");
  EXPECT_EQ(json_string("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"),
            '"' + r + r + r + r + r + r + r + r + "A\"");
  EXPECT_EQ(json_string("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"),
            '"' + r + r + r + r + r + "A" + r + r + "B\"");
  EXPECT_EQ(json_string("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), '"' + r + r + r + r + "A\"");
  EXPECT_EQ(json_string("cut \xF0\x9F\x99"), "\"cut " + r + '"');
}

TEST(JsonText, AnyBytesReadBackAsUtf8AndValidOnesUnchanged) {
  std::mt19937 random(7);
  int valid = 0;
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes = random_bytes(random, random() % 12);
    const std::string text = read_back(json_string(bytes));
    EXPECT_TRUE(is_utf8(text));
    EXPECT_EQ(text == bytes, is_utf8(bytes));
    valid += is_utf8(bytes);
    EXPECT_EQ(read_back(json_string(text)), text);
  }
  EXPECT_GT(valid, 100);
}

TEST(JsonText, EveryCharacterSurvives) {
  std::string all;
  for (std::uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (c < 0x80) {
      all += static_cast<char>(c);
    } else if (c < 0x800) {
      all += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    } else if (c < 0x10000) {
      all += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
              static_cast<char>(0x80 | (c & 0x3F))};
    } else {
      all += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
              static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
    }
  }
  EXPECT_EQ(utf8_error_offset(all), all.size());
  EXPECT_EQ(utf8_length(all), 0x110000U - 0x800U);
  EXPECT_TRUE(read_back(json_string(all)) == all);
}

TEST(JsonText, FirstErrorSplitsValidFromBroken) {
  std::mt19937 random(11);
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes = random_bytes(random, random() % 12);
    const std::size_t offset = utf8_error_offset(bytes);
    EXPECT_TRUE(is_utf8(std::string_view(bytes).substr(0, offset)));
    EXPECT_EQ(offset == bytes.size(), is_utf8(bytes));
  }
}

TEST(JsonText, FloatsReadBackExactly) {
  std::mt19937 random(13);
  for (int round = 0; round < 20000; ++round) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    std::string json;
    append_float(json, value);
    EXPECT_EQ(std::strtof(json.c_str(), nullptr), value) << json;
    simdjson::dom::parser parser;
    double parsed = 0;
    EXPECT_EQ(parser.parse("[" + json + "]").at(0).get(parsed), simdjson::SUCCESS) << json;
  }
  std::string json;
  append_float(json, 0.1F);
  EXPECT_EQ(json, "0.1");
}

TEST(JsonText, IntegersAtTheirEnds) {
  std::string out;
  append_int(out, std::numeric_limits<std::int64_t>::min());
  out += ' ';
  append_int(out, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(out, "-9223372036854775808 18446744073709551615");
}

TEST(JsonText, Base64OfTheStandard) {
  const auto base64 = [](std::string_view text) {
    std::string out;
    append_base64(out, {reinterpret_cast<const unsigned char*>(text.data()), text.size()});
    return out;
  };
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(base64("\xFB\xFF\xBF"), "+/+/");
}

}  // namespace
}  // namespace penstock::api
