#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <string>

#include "net/http_server.h"
#include "net/internal/test_support.h"

// What every answer carries, and what the server counts of those it makes itself.

namespace penstock::net {
namespace {

using test::Answer;
using test::FunctionHandler;
using test::RawSocket;
using namespace std::chrono_literals;

class HttpServerIdsTest : public testing::Test {
 protected:
  void start(FunctionHandler::Function handle, const HttpServerOptions& options = {}) {
    handler_ = std::make_unique<FunctionHandler>(std::move(handle));
    server_ = test::start_for_test(*handler_, options);
    ASSERT_NE(server_, nullptr);
  }
  Answer ask(std::string_view bytes) {
    RawSocket client = RawSocket::connect(server_->port());
    EXPECT_TRUE(client.send(bytes));
    return client.read_answer();
  }
  Answer ask_as(std::string_view id) {
    return ask(fmt::format("GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: {}\r\n\r\n", id));
  }
  std::uint64_t rejected(int status) {
    const auto found = std::ranges::find(kRejections, status);
    return server_->stats().rejected[static_cast<std::size_t>(found - kRejections.begin())];
  }

  std::unique_ptr<FunctionHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerIdsTest, AClientsOwnIdComesBackIfItIsSane) {
  bool streams = false;
  start([&](Exchange& e) {
    if (e.request().id.starts_with("req-")) e.request().id = "ours";
    if (!streams) return e.respond(200, "text/plain", "");
    e.start_stream("text/event-stream");
    e.finish();
  });
  for (streams = false;; streams = true) {
    EXPECT_EQ(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").headers.at("x-request-id"), "ours");
    for (const std::string& sane :
         {std::string("a"), std::string("9f-{x}/~!"), std::string(128, 'i')})
      EXPECT_EQ(ask_as(sane).headers.at("x-request-id"), sane);
    for (const std::string& odd : {std::string("a b"), std::string("a\tb"), std::string("\xC3\xA9"),
                                   std::string(129, 'i'), std::string()})
      EXPECT_EQ(ask_as(odd).headers.at("x-request-id"), "ours") << odd;
    if (streams) break;
  }
}

TEST_F(HttpServerIdsTest, WhatIsRefusedHasAnIdToo) {
  start([](Exchange& e) { e.respond(200, "text/plain", ""); },
        {.header_bytes_max = 4096, .body_bytes_max = 1000, .body_timeout = 50ms});
  const std::string named = "POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n";
  std::set<std::string> seen;
  for (const std::string& sent :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string("nonsense\r\n\r\n"),
        "GET / HTTP/1.1\r\nX-Request-Id: mine\r\nA: " + std::string(8000, 'a') + "\r\n\r\n"}) {
    const std::string id = ask(sent).headers.at("x-request-id");
    EXPECT_THAT(id, testing::MatchesRegex("req-[0-9a-f]{16}"));
    EXPECT_TRUE(seen.insert(id).second) << id;
  }
  EXPECT_EQ(ask(named + "Content-Length: 1001\r\n\r\n").headers.at("x-request-id"), "mine");
  const Answer late = ask(named + "Content-Length: 9\r\n\r\nabc");
  EXPECT_EQ(late.status, 408);
  EXPECT_EQ(late.headers.at("x-request-id"), "mine");
}

TEST_F(HttpServerIdsTest, ANameIsNotTheNextRequestsOnItsConnection) {
  start([](Exchange& e) { e.respond(200, "text/plain", ""); });
  RawSocket client = RawSocket::connect(server_->port());
  client.send("GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n");
  EXPECT_EQ(client.read_answer().headers.at("x-request-id"), "mine");
  client.send("nonsense\r\n\r\n");
  EXPECT_NE(client.read_answer().headers.at("x-request-id"), "mine");
}

TEST_F(HttpServerIdsTest, GivenLinesAreInEveryAnswer) {
  start([](Exchange& e) { e.respond(204, "", ""); },
        {.answer_headers = "Access-Control-Allow-Origin: *\r\nVary: Origin\r\n"});
  for (const std::string_view sent : {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "nonsense\r\n\r\n"}) {
    const Answer answer = ask(sent);
    EXPECT_EQ(answer.headers.at("access-control-allow-origin"), "*");
    EXPECT_EQ(answer.headers.at("vary"), "Origin");
  }
}

TEST_F(HttpServerIdsTest, WhatItRefusesIsCountedByStatus) {
  start([](Exchange& e) { e.respond(200, "text/plain", ""); },
        {.header_bytes_max = 4096, .body_bytes_max = 100'000, .bodies_bytes_max = 80'000});
  EXPECT_EQ(ask("nonsense\r\n\r\n").status, 400);
  EXPECT_EQ(ask("GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(8000, 'a') + "\r\n\r\n").status,
            431);
  EXPECT_EQ(ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n").status, 413);
  const std::string body(90'000, 'b');
  EXPECT_EQ(ask("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + body).status, 503);
  EXPECT_EQ(ask("GET / HTTP/2.0\r\nHost: x\r\n\r\n").status, 505);
  for (const int status : {400, 413, 431, 503, 505}) EXPECT_EQ(rejected(status), 1U) << status;
  EXPECT_EQ(server_->stats().bad_requests, 5U);
  EXPECT_EQ(server_->stats().bodies_bytes_max, 80'000U);
  EXPECT_EQ(server_->stats().bodies_bytes, 0U);
}

}  // namespace
}  // namespace penstock::net
