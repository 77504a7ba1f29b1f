#include "net/internal/response_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace penstock::net {
namespace {

struct Answered {
  ResponseParser::State state = ResponseParser::State::kHeader;
  int status = 0;
  std::string body;
  std::size_t taken = 0;
  bool keep_alive = false;
  friend bool operator==(const Answered&, const Answered&) = default;
};

class Kept final : public ResponseSink {
 public:
  explicit Kept(Answered& outcome) : outcome_(outcome) {}
  [[nodiscard]] bool on_head(int status) override {
    EXPECT_EQ(outcome_.status, 0);
    outcome_.status = status;
    return true;
  }
  [[nodiscard]] bool on_body_piece(std::string_view bytes) override {
    EXPECT_FALSE(bytes.empty());
    outcome_.body += bytes;
    return true;
  }

 private:
  Answered& outcome_;
};

Answered parse_answer(const std::string& whole, std::size_t piece_bytes, bool to_head = false) {
  Answered outcome;
  Kept kept(outcome);
  ResponseParser parser(kept);
  parser.begin(to_head);
  std::string held;
  for (std::size_t at = 0; at < whole.size(); at += piece_bytes) {
    held += whole.substr(at, piece_bytes);
    const std::size_t taken = parser.feed(held);
    outcome.taken += taken;
    held.erase(0, taken);
    if (parser.state() != ResponseParser::State::kHeader &&
        parser.state() != ResponseParser::State::kBody)
      break;
  }
  outcome.state = parser.state();
  outcome.keep_alive = parser.keep_alive();
  return outcome;
}

Answered parse_answer(const std::string& whole) { return parse_answer(whole, whole.size()); }

TEST(ResponseParserTest, EndsWhereTheAnswerDoes) {
  for (const std::string answer :
       {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"}) {
    const Answered outcome = parse_answer(answer + "HTTP/1.1 500 Next\r\n\r\n");
    EXPECT_EQ(outcome.state, ResponseParser::State::kDone) << answer;
    EXPECT_EQ(outcome.taken, answer.size()) << answer;
    EXPECT_TRUE(outcome.keep_alive) << answer;
  }
}

TEST(ResponseParserTest, AnAnswerToHeadHasNoBody) {
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
  const Answered outcome = parse_answer(head + "HT", head.size() + 2, true);
  EXPECT_EQ(outcome.state, ResponseParser::State::kDone);
  EXPECT_EQ(outcome.taken, head.size());
}

TEST(ResponseParserTest, ConnectionIsKeptOnlyIfBothSidesCanTellWhereTheAnswerEnds) {
  EXPECT_FALSE(
      parse_answer("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").keep_alive);
  EXPECT_FALSE(parse_answer("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keep_alive);
  EXPECT_EQ(parse_answer("HTTP/1.1 200 OK\r\n\r\nanything").state, ResponseParser::State::kBody);
}

TEST(ResponseParserTest, WhatIsNotHttpFailsAtItsFirstByte) {
  for (const char* text :
       {"S", "HTTP/2", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 000 OK\r\n\r\n", "HTTP/1.1 101 Switching\r\n\r\n"}) {
    EXPECT_EQ(parse_answer(text).state, ResponseParser::State::kFailed) << text;
  }
}

TEST(ResponseParserTest, AnySplitGivesTheSameOutcome) {
  std::mt19937 random(1);
  const std::string texts[] = {
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello worldrest",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5;x=\"y\"\r\npedia\r\n"
      "0\r\nA: b\r\n\r\nrest",
      "HTTP/1.0 200 OK\r\n\r\nto the end"};
  for (int i = 0; i < 20000; ++i) {
    std::string text = texts[random() % std::size(texts)];
    for (unsigned k = random() % 4; k > 0; --k) {
      static constexpr std::string_view kDamage = "\r\n :;0aA\x00\xff\t,";
      text[random() % text.size()] = kDamage[random() % kDamage.size()];
    }
    Answered whole = parse_answer(text);
    Answered split = parse_answer(text, 1 + random() % 40);
    if (whole.state == ResponseParser::State::kFailed) whole.taken = split.taken = 0;
    ASSERT_EQ(split, whole) << testing::PrintToString(text);
  }
}

}  // namespace
}  // namespace penstock::net
