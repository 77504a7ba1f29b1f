#include "net/sse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

namespace penstock::net {
namespace {

using Events = std::vector<std::pair<std::string, std::string>>;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

Events parse_events(const std::vector<std::string>& pieces) {
  SseParser parser;
  Events events;
  for (const std::string& piece : pieces) {
    EXPECT_TRUE(
        parser.feed(piece, [&](const SseEvent& e) { events.emplace_back(e.event, e.data); }));
  }
  return events;
}

Events parse_events(const std::string& whole) { return parse_events(std::vector{whole}); }

TEST(SseParserTest, JoinsDataLinesAndNamesEvents) {
  EXPECT_THAT(parse_events("data: a\ndata: b\n\nevent: x\ndata: c\n\ndata: d\n\n"),
              ElementsAre(Pair("", "a\nb"), Pair("x", "c"), Pair("", "d")));
}

TEST(SseParserTest, TakesExactlyOneSpaceAfterTheColon) {
  EXPECT_THAT(parse_events("data:a\n\ndata:  b\n\ndata:\tc\n\n"),
              ElementsAre(Pair("", "a"), Pair("", " b"), Pair("", "\tc")));
}

TEST(SseParserTest, AnEventNeedsDataButNotText) {
  EXPECT_THAT(parse_events("event: x\n\ndata\n\ndata:\ndata:\n\ndata: y\n\n"),
              ElementsAre(Pair("", ""), Pair("", "\n"), Pair("", "y")));
}

TEST(SseParserTest, PassesOverCommentsIdsRetriesAndUnknownFields) {
  EXPECT_THAT(
      parse_events(": ping\n\n:\nid: 4\nretry: 10\nfoo: bar\ndatax: no\n data: no\ndata: yes\n\n"),
      ElementsAre(Pair("", "yes")));
}

TEST(SseParserTest, TakesEveryLineEnding) {
  EXPECT_THAT(parse_events("data: a\r\rdata: b\r\n\r\ndata: c\n\ndata: d\r\n\n"),
              ElementsAre(Pair("", "a"), Pair("", "b"), Pair("", "c"), Pair("", "d")));
}

TEST(SseParserTest, TakesAByteOrderMarkAtTheStartOnly) {
  EXPECT_THAT(parse_events("\xEF\xBB\xBF"
                           "data: a\n\n"),
              ElementsAre(Pair("", "a")));
  EXPECT_THAT(parse_events("data: a\n\n\xEF\xBB\xBF"
                           "data: b\n\n"),
              ElementsAre(Pair("", "a")));
}

TEST(SseParserTest, WhatIsUnfinishedIsNoEvent) {
  EXPECT_THAT(parse_events("data: a\n\ndata: b\n"), ElementsAre(Pair("", "a")));
  EXPECT_THAT(parse_events("data: b"), IsEmpty());
}

TEST(SseParserTest, CarriageReturnEndsTheLineAtOnce) {
  EXPECT_THAT(parse_events(std::vector<std::string>{"data: a\r", "\r"}),
              ElementsAre(Pair("", "a")));  // no later byte needed
}

std::string random_stream(std::mt19937& random) {
  static const std::vector<std::string> kParts = {
      "data",      ":",    " ",  "\n", "\r",           "\r\n",     "event",        "a",
      "data: x\n", "\n\n", "id", "bc", "\xEF\xBB\xBF", "\xC3\xA9", "event: e\r\n", "retry: 1\n",
      ": c\n"};
  std::string stream;
  const auto parts = std::uniform_int_distribution<std::size_t>(0, 40)(random);
  for (std::size_t i = 0; i < parts; ++i) stream += kParts[random() % kParts.size()];
  return stream;
}

std::vector<std::string> random_split(const std::string& whole, std::mt19937& random) {
  std::vector<std::string> pieces;
  for (std::size_t at = 0; at < whole.size();) {
    const std::size_t size = std::min<std::size_t>(1 + random() % 7, whole.size() - at);
    pieces.push_back(whole.substr(at, size));
    at += size;
  }
  return pieces;
}

TEST(SseParserTest, AnySplitGivesTheSameEvents) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::string whole = random_stream(random);
    ASSERT_EQ(parse_events(random_split(whole, random)), parse_events(whole))
        << testing::PrintToString(whole);
  }
}

TEST(SseParserTest, AnySplitFailsAtTheSameEvent) {
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    const std::string whole = random_stream(random);
    const auto run = [](const std::vector<std::string>& pieces) {
      SseParser parser(12);
      Events events;
      bool good = true;
      for (const std::string& piece : pieces) {
        good = parser.feed(piece, [&](const SseEvent& e) { events.emplace_back(e.event, e.data); });
      }
      return std::pair(good, events);
    };
    ASSERT_EQ(run(random_split(whole, random)), run({whole})) << testing::PrintToString(whole);
  }
}

TEST(SseParserTest, AnEventOfTheLargestSizePassesAndOneByteMoreNever) {
  const auto ignore = [](const SseEvent&) {};
  const std::string line = "data: 0123456789";
  EXPECT_TRUE(SseParser(line.size()).feed(line + "\n\n", ignore));
  SseParser small(line.size() - 1);
  EXPECT_FALSE(small.feed(line + "\n\n", ignore));
  EXPECT_FALSE(small.feed("\n", ignore));  // for good
  SseParser many(100);                     // small lines add up, too
  bool good = true;
  for (int i = 0; i < 100 && good; ++i) good = many.feed("data: 123\n", ignore);
  EXPECT_FALSE(good);
}

}  // namespace
}  // namespace penstock::net
