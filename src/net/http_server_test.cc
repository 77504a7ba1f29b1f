#include "net/http_server.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "net/internal/test_support.h"

// What a client sees: requests, answers, errors, limits, and the ends of connections. How answers
// under way meet slow and vanishing clients is in http_server_stream_test.cc.

namespace penstock::net {
namespace {

using namespace std::chrono_literals;
using test::Answer;
using test::eventually;
using test::FunctionHandler;
using test::Held;
using test::RawSocket;
using test::run_on;

/// Answers with what it understood of the request.
void echo(Exchange& exchange) {
  const HttpRequest& request = exchange.request();
  exchange.respond(200, "text/plain", request.body, {{"X-Path", request.path()}});
}

class HttpServerTest : public testing::Test {
 protected:
  void start(FunctionHandler::Function handle, const HttpServerOptions& options = {}) {
    handler_ = std::make_unique<FunctionHandler>(std::move(handle));
    server_ = test::start_for_test(*handler_, options);
    ASSERT_NE(server_, nullptr);
  }

  [[nodiscard]] RawSocket connect() const { return RawSocket::connect(server_->port()); }

  [[nodiscard]] Answer ask(std::string_view bytes) const {
    RawSocket client = connect();
    client.send(bytes);
    return client.read_answer();
  }

  /// The answer must be OpenAI's error object, with Connection: close, and the end.
  void expect_rejected(RawSocket& client, int status, std::string_view code) const {
    const Answer answer = client.read_answer();
    EXPECT_EQ(answer.status, status);
    EXPECT_TRUE(answer.complete);
    EXPECT_EQ(answer.headers.at("connection"), "close");
    EXPECT_EQ(answer.headers.at("content-type"), "application/json");
    EXPECT_TRUE(answer.headers.contains("x-request-id"));
    EXPECT_THAT(answer.body, testing::MatchesRegex(R"(\{"error":\{"message":"[^"]+",)"
                                                   R"("type":"[a-z_]+","param":null,"code":")" +
                                                   std::string(code) + R"("\}\})"));
    EXPECT_TRUE(client.at_end());
  }

  std::unique_ptr<FunctionHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersAndKeepsTheConnection) {
  start(echo);
  RawSocket client = connect();
  for (int i = 0; i < 3; ++i) {
    client.send(
        fmt::format("POST /p{}?q HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nbody{}", i, i));
    const Answer answer = client.read_answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, fmt::format("body{}", i));
    EXPECT_EQ(answer.headers.at("x-path"), fmt::format("/p{}", i));
    EXPECT_EQ(answer.headers.at("content-type"), "text/plain");
    EXPECT_FALSE(answer.headers.contains("connection"));
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1U);
  EXPECT_EQ(server_->stats().requests, 3U);
  EXPECT_TRUE(eventually([&] { return server_->stats().exchanges_open == 0; }));
}

TEST_F(HttpServerTest, TellsTheHandlerWhoAsks) {
  start([](Exchange& e) { e.respond(200, "text/plain", e.request().peer); });
  EXPECT_THAT(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").body, testing::StartsWith("127.0.0.1:"));
}

TEST_F(HttpServerTest, TakesARequestByteByByte) {
  start(echo);
  RawSocket client = connect();
  for (const char c :
       std::string("POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "3\r\nabc\r\n0\r\n\r\n")) {
    ASSERT_TRUE(client.send({&c, 1}));
  }
  EXPECT_EQ(client.read_answer().body, "abc");
}

TEST_F(HttpServerTest, TakesLargeBodiesWhole) {
  start([](Exchange& e) { e.respond(200, "application/octet-stream", e.request().body); });
  std::string body(9 * 1024 * 1024 + 3, '\0');
  std::mt19937 random(1);
  for (char& c : body) c = static_cast<char>(random());
  RawSocket client = connect();
  for (const bool chunked : {false, true}) {
    std::string request = "POST / HTTP/1.1\r\nHost: x\r\n";
    if (chunked) {
      request += "Transfer-Encoding: chunked\r\n\r\n";
      for (std::size_t at = 0, size = 0; at < body.size(); at += size) {
        size = std::min<std::size_t>(1 + random() % 100'000, body.size() - at);
        request += fmt::format("{:x}\r\n{}\r\n", size, std::string_view(body).substr(at, size));
      }
      request += "0\r\n\r\n";
    } else {
      request += fmt::format("Content-Length: {}\r\n\r\n{}", body.size(), body);
    }
    ASSERT_TRUE(client.send(request));
    EXPECT_TRUE(client.read_answer().body == body) << "chunked: " << chunked;
  }
}

TEST_F(HttpServerTest, AnswersManyPipelinedRequestsInOrder) {
  int depth = 0;
  int depth_max = 0;
  start([&](Exchange& e) {
    depth_max = std::max(depth_max, ++depth);
    e.respond(200, "text/plain", e.request().target);
    --depth;
  });
  RawSocket client = connect();
  constexpr int kRequests = 10'000;
  std::jthread sender([&] {
    std::string all;
    for (int i = 0; i < kRequests; ++i)
      all += fmt::format("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", i);
    client.send(all);
  });
  for (int i = 0; i < kRequests; ++i) ASSERT_EQ(client.read_answer().body, fmt::format("/{}", i));
  sender.join();
  run_on(server_->loop(0), [&] { EXPECT_EQ(depth_max, 1); });
}

/// Answers in a later turn of the loop.
class LaterAnswer final : public Transaction {
 public:
  explicit LaterAnswer(Exchange& exchange) {
    timer_ = exchange.loop().after(
        Nanos(0), [&exchange] { exchange.respond(200, "text/plain", exchange.request().target); });
  }
  void on_client_gone() override { timer_.reset(); }

 private:
  std::unique_ptr<Loop::Timer> timer_;
};

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrderAlsoWhenItAnswersLater) {
  start([](Exchange& e) { e.own(std::make_unique<LaterAnswer>(e)); });
  RawSocket client = connect();
  constexpr int kRequests = 3000;
  std::jthread sender([&] {
    std::string all;
    for (int i = 0; i < kRequests; ++i)
      all += fmt::format("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", i);
    client.send(all);
  });
  for (int i = 0; i < kRequests; ++i) ASSERT_EQ(client.read_answer().body, fmt::format("/{}", i));
}

TEST_F(HttpServerTest, ATickBetweenTwoPipelinedRequestsEndsNothing) {
  // So much waits that reading is paused, and the loop is so late that the answer and the next
  // tick come in one turn, in this order.
  start([](Exchange& e) {
    e.own(std::make_unique<LaterAnswer>(e));
    if (e.request().target != "/1") return;
    const auto late = std::chrono::steady_clock::now() + 600ms;
    while (std::chrono::steady_clock::now() < late) {
    }
  });
  RawSocket client = connect();
  constexpr int kRequests = 4;
  std::string all;
  for (int i = 0; i < kRequests; ++i)
    all += fmt::format("GET /{} HTTP/1.1\r\nHost: x\r\nX: {:*>30000}\r\n\r\n", i, i);
  ASSERT_TRUE(client.send(all));
  for (int i = 0; i < kRequests; ++i) ASSERT_EQ(client.read_answer().body, fmt::format("/{}", i));
}

TEST_F(HttpServerTest, PipelinedGarbageEndsTheConnectionAfterTheAnswerBeforeIt) {
  start(echo);
  RawSocket client = connect();
  client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab\x01garbage\r\n\r\n");
  EXPECT_EQ(client.read_answer().body, "ab");
  expect_rejected(client, 400, "invalid_value");
  EXPECT_EQ(server_->stats().requests, 1U);
  EXPECT_EQ(server_->stats().bad_requests, 1U);
}

TEST_F(HttpServerTest, AmbiguousRequestsAreNotSmuggled) {
  std::atomic<int> handled = 0;
  start([&](Exchange& e) {
    ++handled;
    echo(e);
  });
  for (const std::string headers :
       {"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 6\r\nContent-Length: 5\r\n", "Content-Length: 6\r\nContent-Length: 6\r\n",
        "Content-Length: 6,6\r\n", "Transfer-Encoding: xchunked\r\n", "Content-Length: six\r\n"}) {
    RawSocket client = connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\n" + headers +
                "\r\n0\r\n\r\nGGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n");
    expect_rejected(client, 400, "invalid_value");
  }
  EXPECT_EQ(handled, 0);
}

TEST_F(HttpServerTest, SlowHeadersAndBodiesTimeOut) {
  HttpServerOptions options;
  options.header_timeout = 50ms;
  options.body_timeout = 50ms;
  start(echo, options);
  for (const std::string begun :
       {"G", "GET / HTTP/1.1\r\nHost: x\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na"}) {
    RawSocket client = connect();
    client.send(begun);
    expect_rejected(client, 408, "request_timeout");
  }
}

TEST_F(HttpServerTest, TricklingBytesDoesNotBuyTime) {
  HttpServerOptions options;
  options.header_timeout = 50ms;
  start(echo, options);
  RawSocket client = connect();
  std::atomic<bool> over = false;
  std::jthread trickle([&] {
    client.send("GET / HTTP/1.1\r\nHost: x\r\n");
    while (!over && client.send("a: b\r\n")) std::this_thread::sleep_for(5ms);
  });
  EXPECT_EQ(client.read_answer().status, 408);
  over = true;
}

TEST_F(HttpServerTest, IdleConnectionsAreClosedWithoutAWord) {
  HttpServerOptions options;
  options.idle_timeout = 50ms;
  start(echo, options);
  RawSocket never = connect();
  EXPECT_TRUE(never.at_end());
  RawSocket once;
  {
    const Held held(server_->loop(0));
    once = connect();
    once.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  EXPECT_EQ(once.read_answer().status, 200);
  EXPECT_TRUE(once.at_end());
}

TEST_F(HttpServerTest, HeadersPastTheLimitAreRefused) {
  HttpServerOptions options;
  options.header_bytes_max = 8 * 1024;
  start(echo, options);
  RawSocket client = connect();
  client.send("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(7 * 1024, 'a') + "\r\n\r\n");
  EXPECT_EQ(client.read_answer().status, 200);
  client.send("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(64 * 1024, 'a'));
  expect_rejected(client, 431, "header_too_large");
}

TEST_F(HttpServerTest, BodiesPastTheLimitAreRefused) {
  HttpServerOptions options;
  options.body_bytes_max = 100'000;
  start(echo, options);
  RawSocket declared = connect();  // answered although not one byte of the body was sent
  declared.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n");
  expect_rejected(declared, 413, "payload_too_large");

  RawSocket growing = connect();
  growing.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 11; ++i) growing.send("2710\r\n" + std::string(10'000, 'a') + "\r\n");
  expect_rejected(growing, 413, "payload_too_large");
}

TEST_F(HttpServerTest, ARefusalReachesAClientThatSendsItsWholeBodyFirst) {
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  start(echo, options);
  constexpr std::size_t kSize = 20 * 1024 * 1024;
  RawSocket client = connect();
  client.send(fmt::format("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", kSize));
  EXPECT_TRUE(client.send(std::string(kSize, 'a')));  // neither reset nor stuck
  expect_rejected(client, 413, "payload_too_large");
}

TEST_F(HttpServerTest, LargeBodiesTogetherAreBounded) {
  struct Quiet final : Transaction {
    void on_client_gone() override {}
  };
  HttpServerOptions options;
  options.bodies_bytes_max = 3'000'000;
  start([](Exchange& e) { e.own(std::make_unique<Quiet>()); }, options);
  const auto post = [](std::size_t size) {
    return fmt::format("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{}", size,
                       std::string(size, 'b'));
  };
  std::vector<RawSocket> holders;
  for (int i = 0; i < 2; ++i) {
    holders.push_back(connect());
    holders.back().send(post(1'400'000));
  }
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 2; }));
  RawSocket third = connect();
  third.send(post(1'400'000));
  expect_rejected(third, 503, "unavailable");
  RawSocket small = connect();  // is served all the same
  small.send(post(50'000));
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 3; }));
  holders.pop_back();  // whoever leaves makes room
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 2; }));
  RawSocket fourth = connect();
  fourth.send(post(1'400'000));
  EXPECT_TRUE(eventually([&] { return server_->stats().exchanges_open == 3; }));
  server_->stop();
}

TEST_F(HttpServerTest, OtherProtocolsAreToldSo) {
  start(echo);
  RawSocket http2 = connect();
  http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  expect_rejected(http2, 505, "invalid_value");
  RawSocket tls = connect();
  tls.send(std::string("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 11));
  expect_rejected(tls, 400, "invalid_value");
}

TEST_F(HttpServerTest, Http10ClosesUnlessAskedToKeep) {
  start(echo);
  RawSocket client = connect();
  client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(client.read_answer().headers.at("connection"), "keep-alive");
  client.send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.read_answer().headers.at("connection"), "close");
  EXPECT_TRUE(client.at_end());
}

TEST_F(HttpServerTest, Http10StreamsEndWithTheConnection) {
  start([](Exchange& e) {
    e.start_stream("text/event-stream");
    e.write("data: a\n\n");
    e.flush();
    e.write("data: b\n\n");
    e.finish();
  });
  RawSocket client = connect();
  client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const Answer answer = client.read_answer();
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_FALSE(answer.headers.contains("transfer-encoding"));
  EXPECT_EQ(answer.body, "data: a\n\ndata: b\n\n");
}

TEST_F(HttpServerTest, ConnectionCloseIsHonoured) {
  start(echo);
  RawSocket client = connect();
  client.send(
      "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_answer().headers.at("connection"), "close");
  EXPECT_TRUE(client.at_end());
  EXPECT_EQ(server_->stats().requests, 1U);
}

TEST_F(HttpServerTest, UnknownMethodsReachTheHandler) {
  start([](Exchange& e) {
    e.respond(e.request().method == HttpRequest::Method::kOther ? 405 : 200, "text/plain", "");
  });
  EXPECT_EQ(ask("BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n").status, 405);
}

TEST_F(HttpServerTest, LeaveToSendTheBodyIsGivenOnlyWhenItIsWaitedFor) {
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  start(echo, options);
  const std::string start_line = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n";
  RawSocket client = connect();
  client.send(start_line + "Content-Length: 2\r\n\r\n");
  EXPECT_EQ(client.read_answer().status, 100);
  client.send("ab");
  EXPECT_EQ(client.read_answer().body, "ab");

  client.send(start_line + "Content-Length: 2\r\n\r\nab");  // did not wait
  EXPECT_EQ(client.read_answer().status, 200);

  client.send(start_line + "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.read_answer().status, 100);
  client.send("2\r\nab\r\n0\r\n\r\n");
  EXPECT_EQ(client.read_answer().body, "ab");

  client.send(start_line + "Content-Length: 1001\r\n\r\n");
  expect_rejected(client, 413, "payload_too_large");

  RawSocket old = connect();
  old.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  old.send("ab");
  EXPECT_EQ(old.read_answer().status, 200);
}

TEST_F(HttpServerTest, HeadGetsTheHeaderAlone) {
  start([](Exchange& e) {
    if (e.request().path() == "/stream") {
      e.start_stream("text/event-stream");
      e.write("data: a\n\n");
      e.flush();
      e.write("data: b\n\n");
      e.finish();
    } else {
      e.respond(200, "text/plain", "12345");
    }
  });
  RawSocket client = connect();
  client.send("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_answer(true).headers.at("content-length"), "5");
  client.send("HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_answer(true).headers.at("content-type"), "text/event-stream");
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");  // nothing stands in its way
  EXPECT_EQ(client.read_answer().body, "12345");
}

TEST_F(HttpServerTest, StreamsAChunkAFlush) {
  start([](Exchange& e) {
    e.start_stream("text/event-stream", {{"X-Path", "7"}});
    e.write("a");
    e.write("b");
    e.flush();
    e.flush();  // nothing new: must not end the stream
    e.write("cd");
    e.flush();
    e.write("e");
    e.finish();
  });
  RawSocket client = connect();
  for (int i = 0; i < 2; ++i) {
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    const Answer answer = client.read_answer();
    EXPECT_TRUE(answer.complete);
    EXPECT_THAT(answer.chunks, testing::ElementsAre("ab", "cd", "e"));
    EXPECT_EQ(answer.headers.at("cache-control"), "no-cache");
    EXPECT_EQ(answer.headers.at("x-accel-buffering"), "no");
    EXPECT_EQ(answer.headers.at("x-path"), "7");
    EXPECT_FALSE(answer.headers.contains("content-length"));
  }
}

TEST_F(HttpServerTest, StreamsMayBeEmpty) {
  start([](Exchange& e) {
    e.start_stream("text/event-stream");
    e.finish();
  });
  const Answer answer = ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(answer.complete);
  EXPECT_EQ(answer.body, "");
}

TEST_F(HttpServerTest, TooManyConnectionsAreToldToComeBack) {
  HttpServerOptions options;
  options.connections_max = 2;
  start(echo, options);
  RawSocket first = connect();
  RawSocket second = connect();
  ASSERT_TRUE(eventually([&] { return server_->stats().connections_open == 2; }));
  for (int i = 0; i < 3; ++i) {
    RawSocket third = connect();
    third.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    const Answer answer = third.read_answer();
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(answer.headers.at("retry-after"), "1");
    EXPECT_EQ(answer.headers.at("connection"), "close");
    EXPECT_THAT(answer.body, testing::HasSubstr(R"("code":"unavailable")"));
    EXPECT_TRUE(third.at_end());
  }
  EXPECT_EQ(server_->stats().connections_refused, 3U);
  EXPECT_EQ(server_->stats().bad_requests, 0U);
  second.close();
  ASSERT_TRUE(eventually([&] { return server_->stats().connections_open == 1; }));
  EXPECT_EQ(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
}

TEST_F(HttpServerTest, EvenRefusalsAreBounded) {
  HttpServerOptions options;
  options.connections_max = 0;
  start(echo, options);
  std::vector<RawSocket> crowd;
  for (int i = 0; i < 600; ++i) crowd.push_back(connect());
  ASSERT_TRUE(eventually([&] { return server_->stats().connections_refused == 600; }));
  int told = 0;
  for (RawSocket& client : crowd) told += client.read_answer().status == 503 ? 1 : 0;
  EXPECT_GT(told, 0);
  EXPECT_LT(told, 600);  // none of them had closed, so few made room for another
  EXPECT_EQ(server_->stats().connections_open, 0U);
}

TEST_F(HttpServerTest, SeveralLoopsShareThePort) {
  HttpServerOptions options;
  options.loops = 3;
  std::array<std::atomic<int>, 3> by_loop{};
  start(
      [&](Exchange& e) {
        EXPECT_TRUE(e.loop().in_loop_thread());
        ++by_loop.at(e.loop().index());
        echo(e);
      },
      options);
  ASSERT_EQ(server_->loop_count(), 3U);
  // The kernel spreads connections by a hash of ports: some connection soon finds each loop.
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").status, 200);
    return std::ranges::all_of(by_loop, [](const auto& n) { return n > 0; });
  }));
}

TEST_F(HttpServerTest, FailsWithARemedyWhenItCannotListen) {
  start(echo);
  HttpServerOptions options;
  options.loops = 2;
  options.port = server_->port();
  const auto taken = start_http_server(options, *handler_);
  ASSERT_FALSE(taken.has_value());
  EXPECT_EQ(taken.error().code, Code::kUnavailable);
  EXPECT_THAT(taken.error().message,
              testing::AllOf(testing::HasSubstr(fmt::format("127.0.0.1:{}", server_->port())),
                             testing::HasSubstr("taken")));
  options.address = "192.0.2.1";
  const auto foreign = start_http_server(options, *handler_);
  ASSERT_FALSE(foreign.has_value());
  EXPECT_THAT(foreign.error().message, testing::HasSubstr("not an address of this machine"));
  options.address = "nonsense";
  const auto nonsense = start_http_server(options, *handler_);
  ASSERT_FALSE(nonsense.has_value());
  EXPECT_EQ(nonsense.error().code, Code::kInvalidArgument);
}

TEST_F(HttpServerTest, TheTransactionEndsWithTheAnswerAndHearsNoMore) {
  struct Counted final : Transaction {
    Counted(std::atomic<int>& alive, std::atomic<int>& gone) : alive_(alive), gone_(gone) {
      ++alive_;
    }
    ~Counted() override { --alive_; }
    void on_client_gone() override { ++gone_; }
    std::atomic<int>& alive_;
    std::atomic<int>& gone_;
  };
  std::atomic<int> alive = 0;
  std::atomic<int> gone = 0;
  std::atomic<int> alive_after_answer = -1;
  start([&](Exchange& e) {
    e.own(std::make_unique<Counted>(alive, gone));
    EXPECT_EQ(alive, 1);
    e.respond(200, "text/plain", "ok");
    alive_after_answer = alive.load();
  });
  RawSocket client = connect();
  client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_answer().body, "ok");
  EXPECT_TRUE(eventually([&] { return alive_after_answer == 0; }));
  client.reset();
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_EQ(gone, 0);
  EXPECT_EQ(server_->stats().clients_gone, 0U);
}

TEST_F(HttpServerTest, DrainClosesWhatIsIdleAndLetsTheRestFinish) {
  std::atomic<Exchange*> open = nullptr;
  struct Quiet final : Transaction {
    void on_client_gone() override { ADD_FAILURE(); }
  };
  start([&](Exchange& e) {
    if (e.request().path() == "/slow") {
      e.own(std::make_unique<Quiet>());
      open = &e;
    } else {
      echo(e);
    }
  });
  RawSocket idle = connect();
  idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(idle.read_answer().status, 200);
  RawSocket busy = connect();
  busy.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return open != nullptr; }));

  server_->drain();
  EXPECT_TRUE(idle.at_end());
  RawSocket late = connect();
  late.send("GET /late HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(late.read_answer().headers.at("connection"), "close");
  EXPECT_TRUE(late.at_end());
  run_on(server_->loop(0), [&] { open.load()->respond(200, "text/plain", "done"); });
  const Answer answer = busy.read_answer();
  EXPECT_EQ(answer.body, "done");
  EXPECT_EQ(answer.headers.at("connection"), "close");
  EXPECT_TRUE(busy.at_end());
}

TEST_F(HttpServerTest, StopEndsEverythingOnceAndForAll) {
  struct Told final : Transaction {
    explicit Told(std::atomic<int>& gone) : gone_(gone) {}
    void on_client_gone() override { ++gone_; }
    std::atomic<int>& gone_;
  };
  std::atomic<int> gone = 0;
  HttpServerOptions options;
  options.loops = 2;
  start([&](Exchange& e) { e.own(std::make_unique<Told>(gone)); }, options);
  std::vector<RawSocket> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(connect());
    clients.back().send(i % 2 == 0 ? "GET / HTTP/1.1\r\nHost: x\r\n\r\n" : "GET / HT");
  }
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 10; }));
  // A task that posts itself for ever must not keep the server from stopping.
  std::function<void()> again = [&] { server_->loop(0).post([&] { again(); }); };
  server_->loop(0).post([&] { again(); });
  std::jthread stopper;
  {  // Nor may connections be forgotten that come in the very moment.
    const Held first(server_->loop(0));
    const Held second(server_->loop(1));
    for (int i = 0; i < 100; ++i) clients.push_back(connect());
    stopper = std::jthread([&] { server_->stop(); });
  }
  stopper.join();
  EXPECT_EQ(gone, 10);
  for (RawSocket& client : clients) EXPECT_TRUE(client.at_end());
  EXPECT_EQ(server_->stats().connections_open, 0U);
  EXPECT_EQ(server_->stats().exchanges_open, 0U);
  server_->stop();
  server_->loop(0).post([] { ADD_FAILURE() << "the loop has stopped"; });
  server_.reset();
}

}  // namespace
}  // namespace penstock::net
