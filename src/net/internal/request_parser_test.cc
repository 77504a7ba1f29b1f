#include "net/internal/request_parser.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace penstock::net {
namespace {

constexpr std::size_t kHeaderMax = 1024;
constexpr std::size_t kBodyMax = 4096;

struct Outcome {
  RequestParser::State state = RequestParser::State::kHeader;
  int status = 0;  // of the fault
  HttpRequest request;
  std::size_t taken = 0;
  bool keep_alive = false;
};

/// Feeds `whole` as a connection would: pieces of the given sizes, in turn, behind what is left.
Outcome parse(const std::string& whole, const std::vector<std::size_t>& sizes,
              bool in_place = false) {
  RequestParser parser(kHeaderMax, kBodyMax);
  Outcome outcome;
  parser.begin(outcome.request);
  std::string held;
  std::size_t at = 0;
  for (std::size_t i = 0; at < whole.size(); ++i) {
    const std::size_t size = std::min(sizes[i % sizes.size()], whole.size() - at);
    const std::string_view piece = std::string_view(whole).substr(at, size);
    const std::span<char> space =
        in_place && held.empty() ? parser.body_space() : std::span<char>();
    if (!space.empty()) {
      const std::size_t fits = std::min(space.size(), piece.size());
      std::copy_n(piece.begin(), fits, space.begin());
      parser.body_received(fits);
      at += fits;
      outcome.taken += fits;
    } else {
      held += piece;
      at += size;
      const std::size_t taken = parser.feed(held);
      outcome.taken += taken;
      held.erase(0, taken);
    }
    if (parser.state() == RequestParser::State::kDone) break;
    if (parser.state() == RequestParser::State::kFailed) break;
  }
  outcome.state = parser.state();
  outcome.keep_alive = parser.keep_alive();
  if (outcome.state == RequestParser::State::kFailed) outcome.status = parser.fault().status;
  return outcome;
}

Outcome parse(const std::string& whole) { return parse(whole, {whole.size()}); }

int fault_of(const std::string& whole) { return parse(whole).status; }

bool done(const std::string& whole) { return parse(whole).state == RequestParser::State::kDone; }

TEST(RequestParserTest, ReadsEveryPartOfARequest) {
  const auto outcome = parse(
      "POST /v1/chat?a=1&b HTTP/1.1\r\nHost: x\r\nX-Mixed-CASE:  two words \r\n"
      "Content-Length: 5\r\n\r\nhello");
  ASSERT_EQ(outcome.state, RequestParser::State::kDone);
  const HttpRequest& request = outcome.request;
  EXPECT_EQ(request.method, HttpRequest::Method::kPost);
  EXPECT_EQ(request.target, "/v1/chat?a=1&b");
  EXPECT_EQ(request.path(), "/v1/chat");
  EXPECT_EQ(request.query(), "a=1&b");
  EXPECT_EQ(request.header("x-mixed-case"), "two words");
  EXPECT_EQ(request.header("absent"), "");
  EXPECT_EQ(request.body, "hello");
  EXPECT_TRUE(outcome.keep_alive);
}

TEST(RequestParserTest, KnowsMethods) {
  using Method = HttpRequest::Method;
  const std::pair<const char*, Method> cases[] = {
      {"GET", Method::kGet},     {"HEAD", Method::kHead},     {"POST", Method::kPost},
      {"PUT", Method::kPut},     {"DELETE", Method::kDelete}, {"OPTIONS", Method::kOptions},
      {"PATCH", Method::kPatch}, {"BREW", Method::kOther},    {"get", Method::kOther},
      {"TRACE", Method::kOther}, {"PROPFIND", Method::kOther}};
  for (const auto& [name, method] : cases) {
    const auto outcome = parse(std::string(name) + " / HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_EQ(outcome.state, RequestParser::State::kDone) << name;
    EXPECT_EQ(outcome.request.method, method) << name;
  }
}

TEST(RequestParserTest, DecodesChunksAndDropsExtensionsAndTrailers) {
  const auto outcome = parse(
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "5;a=b\r\nhello\r\n00A\r\n, you all!\r\n0\r\nConnection: close\r\nX: y\r\n\r\nGET");
  ASSERT_EQ(outcome.state, RequestParser::State::kDone);
  EXPECT_EQ(outcome.request.body, "hello, you all!");
  EXPECT_EQ(outcome.request.headers.size(), 2U);
  EXPECT_EQ(outcome.request.header("x"), "");
  EXPECT_TRUE(outcome.keep_alive);
}

TEST(RequestParserTest, TakesNothingPastTheRequest) {
  for (const std::string request :
       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab",
        "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"}) {
    EXPECT_EQ(parse(request + "GET /next HTTP/1.1\r\n").taken, request.size()) << request;
  }
}

TEST(RequestParserTest, KeepAliveFollowsVersionAndConnection) {
  EXPECT_TRUE(parse("GET / HTTP/1.1\r\nHost: x\r\n\r\n").keep_alive);
  EXPECT_FALSE(parse("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n").keep_alive);
  EXPECT_FALSE(parse("GET / HTTP/1.0\r\n\r\n").keep_alive);
  EXPECT_TRUE(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
}

TEST(RequestParserTest, AmbiguousFramingIsRefused) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\n";
  const std::string headers[] = {
      "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
      "Content-Length: 3\r\nContent-Length: 3\r\n",
      "Content-Length: 3\r\nContent-Length: 4\r\n",
      "Content-Length: 3, 3\r\n",
      "Content-Length: +3\r\n",
      "Content-Length: -3\r\n",
      "Content-Length: 0x3\r\n",
      "Content-Length: 3 3\r\n",
      "Content-Length: \r\n",
      "Content-Length: 99999999999999999999\r\n",
      "Content-Length : 3\r\n",
      "Content-Length: 3\r\n\tfolded: 1\r\n",
      " Content-Length: 3\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "Transfer-Encoding: identity\r\n",
      "Transfer-Encoding: gzip, chunked\r\n",
      "Transfer-Encoding: chunked, gzip\r\n",
      "Transfer-Encoding: chunked, chunked\r\n",
      "Transfer-Encoding: xchunked\r\n",
      "Transfer-Encoding: \"chunked\"\r\n",
      "Transfer-Encoding: chunked;q=1\r\n",
      "Transfer-Encoding:\vchunked\r\n",
      "Transfer-Encoding\x01: chunked\r\n",
      "Host: y\r\n",
  };
  for (const std::string& header : headers) {
    EXPECT_EQ(fault_of(start + header + "\r\n3\r\nabc\r\n0\r\n\r\n"), 400) << header;
  }
  EXPECT_EQ(fault_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
}

TEST(RequestParserTest, MalformedChunksAreRefused) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string chunks :
       {"x\r\n", "-1\r\n", " 3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\nabc\n0\n\n\r\n",
        "3 x\r\nabc\r\n0\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "\r\n", ";a\r\n", "3\r\nabc0\r\n\r\n",
        "3;a=\"b\r\nabc\r\n0;\"\n\r\n", "3;\x01\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nA: b\n\r\n",
        "3\r\nabc\r\n0\r\nA: b\rc\r\n\r\n", "00000000000000003\r\nabc\r\n0\r\n\r\n"}) {
    EXPECT_EQ(fault_of(start + chunks), 400) << testing::PrintToString(chunks);
  }
  EXPECT_EQ(fault_of(start + "fffffffffffffffff\r\n"), 400);  // overflows 64 bits
  EXPECT_EQ(fault_of(start + "ffffffffffffffff\r\n"), 413);
}

TEST(RequestParserTest, MalformedHeadersAreRefused) {
  for (const std::string request :
       {"GET\r\n\r\n", "GET /\r\n\r\n", "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: x\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n", "\x16\x03\x01",
        "\xC3\xA9", "G\x01T / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost x\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nA: b\x01\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTT\r\n\r\n", "GET / http/1.1\r\nHost: x\r\n\r\n"}) {
    EXPECT_EQ(fault_of(request), 400) << testing::PrintToString(request);
  }
}

TEST(RequestParserTest, OtherVersionsAreToldSo) {
  EXPECT_EQ(fault_of("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(fault_of("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(fault_of("GET / HTTP/1.2\r\nHost: x\r\n\r\n"), 505);
  EXPECT_EQ(fault_of("GET / HTTP/0.9\r\nHost: x\r\n\r\n"), 505);
}

TEST(RequestParserTest, HeaderOfTheLargestSizePassesAndOneByteMoreNot) {
  const std::string start = "GET / HTTP/1.1\r\nHost: x\r\nA: ";
  const std::string longest = start + std::string(kHeaderMax - start.size() - 4, 'a') + "\r\n\r\n";
  ASSERT_EQ(longest.size(), kHeaderMax);
  EXPECT_TRUE(done(longest));
  std::string longer = longest;
  longer.insert(start.size(), "a");
  EXPECT_EQ(fault_of(longer), 431);
  EXPECT_EQ(fault_of(longer.substr(0, kHeaderMax)), 431);  // told before the end is seen
  EXPECT_EQ(fault_of("\r\n" + longest), 431);
  EXPECT_EQ(fault_of(std::string(kHeaderMax, 'a')), 431);
}

TEST(RequestParserTest, HeaderFieldsAreCounted) {
  RequestParser parser(64 * 1024, kBodyMax);
  HttpRequest request;
  parser.begin(request);
  std::string text = "GET / HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 256; ++i) text += "a:\r\n";
  parser.feed(text + "\r\n");
  ASSERT_EQ(parser.state(), RequestParser::State::kFailed);
  EXPECT_EQ(parser.fault().status, 431);
}

TEST(RequestParserTest, BodyOfTheLargestSizePassesAndOneByteMoreIsToldBeforeItComes) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\n";
  const std::string body(kBodyMax, 'b');
  EXPECT_TRUE(done(start + "Content-Length: 4096\r\n\r\n" + body));
  EXPECT_EQ(fault_of(start + "Content-Length: 4097\r\n\r\n"), 413);
  const std::string chunked = start + "Transfer-Encoding: chunked\r\n\r\n";
  EXPECT_TRUE(done(chunked + "800\r\n" + body.substr(0, 2048) + "\r\n800\r\n" +
                   body.substr(0, 2048) + "\r\n0\r\n\r\n"));
  EXPECT_EQ(fault_of(chunked + "800\r\n" + body.substr(0, 2048) + "\r\n801\r\n"), 413);
  EXPECT_EQ(fault_of(chunked + "1001\r\n"), 413);
}

TEST(RequestParserTest, EndlessChunkHeadersAndTrailersAreRefused) {
  const std::string start = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  constexpr std::size_t kMax = ChunkDecoder::kLineBytesMax;
  const std::string long_line(kMax - 6, 'a');
  EXPECT_TRUE(done(start + "1;" + long_line + "\r\nx\r\n0\r\nA:" + long_line + "\r\n\r\n"));
  EXPECT_EQ(fault_of(start + "1;" + std::string(kMax, 'a')), 400);
  EXPECT_EQ(fault_of(start + "0\r\nA:" + std::string(kMax, 'a')), 400);
  std::string many = start + "0\r\n";
  for (std::size_t i = 0; i < kMax; i += 4) many += "a:\r\n";
  EXPECT_EQ(fault_of(many + "\r\n"), 400);  // short, but without end
}

TEST(RequestParserTest, ADeclaredLengthReservesLittle) {
  RequestParser parser(kHeaderMax, std::size_t{1} << 40);
  HttpRequest request;
  parser.begin(request);
  parser.feed("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\nabc");
  ASSERT_EQ(parser.state(), RequestParser::State::kBody);
  EXPECT_LE(request.body.capacity(), 2U * 1024 * 1024);
  EXPECT_LE(parser.body_space().size(), 2U * 1024 * 1024);
}

TEST(RequestParserTest, BodiesReceivedInPlaceGrowWithWhatArrives) {
  constexpr std::size_t kSize = 5 * 1024 * 1024 + 17;
  RequestParser parser(kHeaderMax, 64 * 1024 * 1024);
  HttpRequest request;
  parser.begin(request);
  parser.feed("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(kSize) +
              "\r\n\r\n");
  std::string sent;
  while (parser.state() == RequestParser::State::kBody) {
    const auto space = parser.body_space();
    ASSERT_FALSE(space.empty());
    ASSERT_LE(space.size(), std::max(sent.size(), std::size_t{1024 * 1024}));
    const std::size_t size = std::min<std::size_t>(space.size(), 100'003);
    for (std::size_t i = 0; i < size; ++i) {
      space[i] = static_cast<char>(sent.size() * 31 + 7);
      sent += space[i];
    }
    parser.body_received(size);
  }
  ASSERT_EQ(parser.state(), RequestParser::State::kDone);
  EXPECT_TRUE(request.body == sent);
}

TEST(RequestParserTest, BodiesArePadded) {
  RequestParser parser(kHeaderMax, kBodyMax);
  HttpRequest request;
  // The first request leaves dirt where the padding of the second will be.
  for (const std::string& body : {std::string(600, 'x'), std::string(10, 'y'), std::string()}) {
    for (const bool chunked : {false, true}) {
      parser.begin(request);
      const std::string framed =
          chunked ? "Transfer-Encoding: chunked\r\n\r\n" +
                        (body.empty() ? "" : fmt::format("{:x}\r\n{}\r\n", body.size(), body)) +
                        "0\r\n\r\n"
                  : fmt::format("Content-Length: {}\r\n\r\n{}", body.size(), body);
      parser.feed("POST / HTTP/1.1\r\nHost: x\r\n" + framed);
      ASSERT_EQ(parser.state(), RequestParser::State::kDone);
      ASSERT_EQ(request.body, body);
      ASSERT_GE(request.body.capacity(), body.size() + kBodyPaddingBytes);
      const char* const end = request.body.data() + body.size();
      EXPECT_TRUE(std::all_of(end, end + kBodyPaddingBytes, [](char c) { return c == '\0'; }));
    }
  }
}

// Requests, good and bad, whose outcome no split may change.
std::vector<std::string> corpus() {
  const std::string host = "Host: x\r\n";
  std::vector<std::string> texts = {
      "GET / HTTP/1.1\r\n" + host + "\r\n",
      "\r\n\r\nGET /a HTTP/1.1\r\n" + host + "\r\nGET /b HTTP/1.1\r\n",
      "\rGET / HTTP/1.1\r\n" + host + "\r\n",
      "POST / HTTP/1.1\r\n" + host + "Content-Length: 11\r\n\r\nhello world!",
      "POST / HTTP/1.1\r\n" + host +
          "Transfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5;x=\"y\"\r\npedia"
          "\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nA: b\r\n\r\nrest",
      "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n4\r\nwikix",
      "GET / HTTP/1.1\r\n" + host + "A: b\r\n c\r\n\r\n",
      "GET / HTTP/1.1\r\n" + host + "A: b\n\r\n",
      "GET / HTTP/3.0\r\n" + host + "\r\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      "POST / HTTP/1.1\r\n" + host + "Content-Length: 5000\r\n\r\n",
      "GET / HTTP/1.1\r\n" + host + "A: " + std::string(2000, 'a') + "\n\r\n\r\n",
      std::string(2000, '\n'),
      "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1;" +
          std::string(1500, 'e') + "\r\na\r\n0\r\n\r\n",
      "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: " +
          std::string(1500, 't') + "\r\n\r\n"};
  std::string blanks;
  for (int i = 0; i < 600; ++i) blanks += "\r\n";
  texts.push_back(blanks + texts[0]);
  return texts;
}

void expect_same(const Outcome& got, const Outcome& whole, const std::string& text) {
  ASSERT_EQ(got.state, whole.state) << testing::PrintToString(text);
  ASSERT_EQ(got.status, whole.status) << testing::PrintToString(text);
  if (whole.state != RequestParser::State::kDone) return;
  EXPECT_EQ(got.taken, whole.taken);
  EXPECT_EQ(got.request.target, whole.request.target);
  EXPECT_EQ(got.request.headers, whole.request.headers);
  EXPECT_EQ(got.request.body, whole.request.body);
  EXPECT_EQ(got.keep_alive, whole.keep_alive);
}

TEST(RequestParserTest, AnySplitGivesTheSameOutcome) {
  std::mt19937 random(1);
  for (const std::string& text : corpus()) {
    const Outcome whole = parse(text);
    for (std::size_t size = 1; size < 40; ++size) {
      expect_same(parse(text, {size}), whole, text);
      expect_same(parse(text, {size}, true), whole, text);
    }
    for (int i = 0; i < 200; ++i) {
      std::vector<std::size_t> sizes;
      for (int k = 0; k < 10; ++k) sizes.push_back(1 + random() % (1U << (random() % 11)));
      expect_same(parse(text, sizes), whole, text);
      expect_same(parse(text, sizes, true), whole, text);
    }
  }
}

// Damaged requests: whatever comes out, a split must not change it, and nothing must crash.
TEST(RequestParserTest, AnySplitOfDamagedRequestsGivesTheSameOutcome) {
  std::mt19937 random(2);
  const auto texts = corpus();
  for (int i = 0; i < 20000; ++i) {
    std::string text = texts[random() % texts.size()];
    for (unsigned k = random() % 4; k > 0 && !text.empty(); --k) {
      static constexpr std::string_view kDamage = "\r\n :;0aA\x00\xff\t,";
      const std::size_t at = random() % text.size();
      if (random() % 2 == 0) {
        text[at] = kDamage[random() % kDamage.size()];
      } else {
        text.erase(at, 1 + random() % 3);
      }
    }
    if (text.empty()) continue;
    const Outcome whole = parse(text);
    expect_same(parse(text, {1 + random() % 8, 1 + random() % 300}), whole, text);
  }
}

}  // namespace
}  // namespace penstock::net
