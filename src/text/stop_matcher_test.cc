#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock::text {
namespace {

struct Outcome {
  std::string text;
  bool stopped = false;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome run(const std::vector<std::string>& stops, std::string_view text, std::mt19937* random) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (std::size_t at = 0; at < text.size() && !outcome.stopped;) {
    const std::size_t size =
        random == nullptr ? 1 : std::min<std::size_t>(1 + (*random)() % 5, text.size() - at);
    outcome.stopped = matcher.add(text.substr(at, size), outcome.text);
    at += size;
  }
  if (!outcome.stopped) matcher.finish(outcome.text);
  return outcome;
}

TEST(StopMatcherTest, StopStringNeverShows) {
  EXPECT_EQ(run({"END"}, "abcENDdef", nullptr), (Outcome{"abc", true}));
  EXPECT_EQ(run({"END"}, "abcEN", nullptr), (Outcome{"abcEN", false}));
  EXPECT_EQ(run({"bcd", "abcdef"}, "abcdef", nullptr), (Outcome{"a", true}));
  EXPECT_EQ(run({"cd", "bcd"}, "abcd", nullptr), (Outcome{"a", true}));
  EXPECT_EQ(run({}, "abc", nullptr), (Outcome{"abc", false}));
}

TEST(StopMatcherTest, E13_AnySplitGivesTheSame) {
  std::mt19937 random(3);
  for (int i = 0; i < 5000; ++i) {
    std::vector<std::string> stops;
    for (std::size_t n = 1 + random() % 3; n > 0; --n) {
      std::string stop;
      for (std::size_t k = 1 + random() % 4; k > 0; --k)
        stop += static_cast<char>('a' + random() % 2);
      stops.push_back(stop);
    }
    std::string text;
    for (std::size_t n = random() % 20; n > 0; --n) text += static_cast<char>('a' + random() % 3);
    const Outcome bytewise = run(stops, text, nullptr);
    EXPECT_EQ(run(stops, text, &random), bytewise) << text;
    StopMatcher whole(stops);
    Outcome once;
    once.stopped = whole.add(text, once.text);
    if (!once.stopped) whole.finish(once.text);
    EXPECT_EQ(once, bytewise) << text;
  }
}

}  // namespace
}  // namespace penstock::text
