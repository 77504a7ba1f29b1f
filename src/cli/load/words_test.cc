#include "cli/load/words.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

namespace penstock::cli::load {
namespace {

std::string words(std::uint64_t stream, std::size_t count) {
  std::string text;
  append_words(text, stream, count);
  return text;
}

TEST(WordsTest, CountIsThatOfTheSpaces) {
  for (const std::size_t count : {0, 1, 7, 8, 9, 1000}) {
    EXPECT_EQ(std::ranges::count(words(1, count), ' '), static_cast<std::ptrdiff_t>(count));
  }
}

TEST(WordsTest, FewerWordsAreAPrefixOfMore) {
  const std::string most = words(42, 100);
  for (std::size_t count = 0; count < 100; ++count) {
    EXPECT_TRUE(most.starts_with(words(42, count)));
  }
}

TEST(WordsTest, StreamsDifferWithinEightWords) {
  std::set<std::string> beginnings;
  for (const Stream kind : {Stream::kTurn, Stream::kPrefix, Stream::kTraceTail}) {
    for (std::uint64_t session = 0; session < 2000; ++session) {
      for (const std::uint32_t turn : {0U, 1U, 9999U}) {
        beginnings.insert(words(stream_of(5, kind, session, turn), 8));
      }
    }
  }
  EXPECT_EQ(beginnings.size(), 3U * 2000 * 3);
}

TEST(WordsTest, SizeIsExactInBytes) {
  for (const std::size_t size : {0, 1, 4, 5, 63, 1000, 65536}) {
    const std::string text = words_of_size(9, size);
    EXPECT_EQ(text.size(), size);
    EXPECT_TRUE(words_of_size(9, 70000).starts_with(text));
    EXPECT_EQ(text.find('\0'), std::string::npos);
  }
}

}  // namespace
}  // namespace penstock::cli::load
