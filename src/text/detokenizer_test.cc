#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock::text {
namespace {

std::string in_pieces(std::string_view bytes, std::mt19937& random) {
  Detokenizer detokenizer;
  std::string out;
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t size = std::min<std::size_t>(random() % 4, bytes.size() - at);
    std::string piece;
    detokenizer.add(bytes.substr(at, size), piece);
    std::string check;
    EXPECT_EQ(append_utf8(piece, check), 0u) << "half a character was shown";
    EXPECT_EQ(check, piece);
    out += piece;
    at += size;
  }
  detokenizer.finish(out);
  return out;
}

TEST(DetokenizerTest, E12_AnySplitGivesTheSameWholeCharacters) {
  std::mt19937 random(5);
  const std::string text = "aé東👍🏽\u00a0z";
  for (int i = 0; i < 200; ++i) EXPECT_EQ(in_pieces(text, random), text);
}

TEST(DetokenizerTest, AnySplitOfRandomBytesGivesTheSameRepair) {
  std::mt19937 random(6);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes;
    static constexpr unsigned char kHard[] = {0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED,
                                              0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF, 0xC0};
    for (std::size_t n = random() % 12; n > 0; --n)
      bytes += static_cast<char>(kHard[random() % sizeof kHard]);
    std::string whole;
    Detokenizer once;
    once.add(bytes, whole);
    once.finish(whole);
    EXPECT_EQ(in_pieces(bytes, random), whole);
  }
}

TEST(DetokenizerTest, InvalidBytesBecomeReplacementCharacters) {
  // The example of Unicode 15, table 3-8.
  std::string out;
  EXPECT_EQ(append_utf8("\x41\xC0\xAF\x41\xF4\x80\x80\x41", out), 0u);
  EXPECT_EQ(out, "A\uFFFD\uFFFDA\uFFFDA");
  out.clear();
  EXPECT_EQ(append_utf8("\xF0\x9F\x91", out), 3u);
  EXPECT_EQ(out, "");
}

}  // namespace
}  // namespace penstock::text
