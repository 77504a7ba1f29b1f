#include "net/http_client.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "net/http_server.h"
#include "net/internal/test_support.h"

namespace penstock::net {
namespace {

using namespace std::chrono_literals;
using test::eventually;
using test::FunctionHandler;
using test::RawListener;
using test::RawSocket;
using test::run_on;
using testing::HasSubstr;

/// Keeps what it hears. Loop thread, but for `done`, which any thread may wait for.
class Heard : public HttpCallListener {
 public:
  void on_headers(int status) override {
    EXPECT_EQ(this->status, 0) << "told twice";
    this->status = status;
    if (then_on_headers) then_on_headers();
  }
  void on_body(std::string_view bytes) override {
    EXPECT_NE(status, 0);
    body += bytes;
    if (then_on_body) then_on_body();
  }
  void on_done(Result<void> outcome) override {
    EXPECT_FALSE(done) << "told twice";
    this->outcome = std::move(outcome);
    if (then_on_done) then_on_done();
    done = true;
  }

  int status = 0;
  std::string body;
  Result<void> outcome;
  std::atomic<bool> done = false;
  std::function<void()> then_on_headers;
  std::function<void()> then_on_body;
  std::function<void()> then_on_done;
};

class HttpClientTest : public testing::Test {
 public:
  ~HttpClientTest() override {
    run_on(thread_->loop(), [&] {
      handle_.reset();
      client_.reset();
    });
  }

 protected:
  void start_server(FunctionHandler::Function handle, const HttpServerOptions& options = {}) {
    handler_ = std::make_unique<FunctionHandler>(std::move(handle));
    server_ = test::start_for_test(*handler_, options);
    ASSERT_NE(server_, nullptr);
    start_client(server_->port());
  }

  void start_client(std::uint16_t port, std::string host = "127.0.0.1") {
    client_ = make_http_client(thread_->loop(), {.host = std::move(host), .port = port});
  }

  /// Starts a call whose handle is handle_.
  void call(Heard& heard, HttpCall what = {}) {
    run_on(thread_->loop(), [&] {
      handle_ = client_->call(std::move(what), heard);
      EXPECT_FALSE(heard.done) << "told from inside call()";
    });
  }

  void call_and_wait(Heard& heard, HttpCall what = {}) {
    call(heard, std::move(what));
    ASSERT_TRUE(eventually([&] { return heard.done.load(); }));
  }

  void expect_failure(const Heard& heard, Code code, const std::string& message) {
    ASSERT_FALSE(heard.outcome.has_value());
    EXPECT_EQ(heard.outcome.error().code, code);
    EXPECT_THAT(heard.outcome.error().message, HasSubstr(message));
  }

  std::unique_ptr<LoopThread> thread_ = start_loop_thread();
  std::unique_ptr<FunctionHandler> handler_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<HttpClient> client_;
  std::unique_ptr<HttpCallHandle> handle_;
};

TEST(ParseUrlTest, SplitsWhatItSupports) {
  const auto check = [](std::string_view url, std::string_view host, int port,
                        std::string_view path) {
    const auto parsed = parse_url(url);
    ASSERT_TRUE(parsed.has_value()) << url;
    EXPECT_EQ(parsed->host, host);
    EXPECT_EQ(parsed->port, port);
    EXPECT_EQ(parsed->path, path);
  };
  check("http://a", "a", 80, "/");
  check("http://a.b:8000/", "a.b", 8000, "/");
  check("http://a:1/v1/x?y=http://z/#frag", "a", 1, "/v1/x?y=http://z/");
  check("http://[::1]:65535/p", "::1", 65535, "/p");
  check("http://[::1]", "::1", 80, "/");
  check("http://a?x", "a", 80, "/?x");
}

TEST(ParseUrlTest, SaysWhatIsWrong) {
  for (const char* url :
       {"", "a:80", "https://a", "ftp://a", "http://", "http:///p", "http://:80",
        "http://a:", "http://a:0", "http://a:65536", "http://a:8x", "http://a:-1", "http://u@a",
        "http://[::1", "http://[::1]8", "http://[]", "http://a b", "http://a/\r\nx"}) {
    const auto parsed = parse_url(url);
    ASSERT_FALSE(parsed.has_value()) << url;
    EXPECT_EQ(parsed.error().code, Code::kInvalidArgument);
  }
  EXPECT_THAT(parse_url("https://a").error().message, HasSubstr("only http"));
}

TEST_F(HttpClientTest, CallsAndReusesItsConnection) {
  start_server([](Exchange& e) {
    const HttpRequest& r = e.request();
    e.respond(201, "text/plain",
              fmt::format("{} {} {} {}", r.target, r.header("x-a"), r.header("host"), r.body));
  });
  for (int i = 0; i < 5; ++i) {
    Heard heard;
    call_and_wait(heard, {.path = "/p?q", .body = "body", .headers = {{"X-A", "a"}}});
    EXPECT_TRUE(heard.outcome.has_value());
    EXPECT_EQ(heard.status, 201);
    EXPECT_EQ(heard.body, fmt::format("/p?q a 127.0.0.1:{} body", server_->port()));
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1U);
}

TEST_F(HttpClientTest, FindsAHostByName) {
  start_server([](Exchange& e) { e.respond(200, "text/plain", "ok"); });
  run_on(thread_->loop(), [&] { client_.reset(); });
  start_client(server_->port(), "localhost");
  Heard heard;
  call_and_wait(heard);
  EXPECT_EQ(heard.body, "ok");
}

TEST_F(HttpClientTest, ReceivesStreamsAsTheyCome) {
  std::atomic<Exchange*> open = nullptr;
  struct Quiet final : Transaction {
    void on_client_gone() override { ADD_FAILURE(); }
  };
  start_server([&](Exchange& e) {
    e.own(std::make_unique<Quiet>());
    e.start_stream("text/event-stream");
    e.write("one");
    e.flush();
    open = &e;
  });
  Heard heard;
  std::atomic<int> pieces = 0;
  heard.then_on_body = [&] { ++pieces; };
  call(heard);
  ASSERT_TRUE(eventually([&] { return pieces == 1 && open != nullptr; }));
  run_on(server_->loop(0), [&] {
    open.load()->write("two");
    open.load()->flush();
  });
  ASSERT_TRUE(eventually([&] { return pieces == 2; }));
  EXPECT_FALSE(heard.done);
  run_on(server_->loop(0), [&] { open.load()->finish(); });
  ASSERT_TRUE(eventually([&] { return heard.done.load(); }));
  EXPECT_TRUE(heard.outcome.has_value());
  EXPECT_EQ(heard.body, "onetwo");
}

TEST_F(HttpClientTest, SendsAndReceivesLargeBodies) {
  start_server([](Exchange& e) { e.respond(200, "text/plain", e.request().body); });
  std::string body(20 * 1024 * 1024, '\0');
  for (std::size_t i = 0; i < body.size(); ++i) body[i] = static_cast<char>(i * 7 / 3);
  Heard heard;
  call_and_wait(heard, {.body = body});
  EXPECT_TRUE(heard.outcome.has_value());
  EXPECT_TRUE(heard.body == body);
}

TEST_F(HttpClientTest, ReceivesAnswersWithoutABody) {
  start_server([](Exchange& e) {
    e.respond(e.request().method == HttpRequest::Method::kHead ? 200 : 204, "text/plain", "12345");
  });
  for (const char* method : {"HEAD", "GET"}) {
    Heard heard;
    call_and_wait(heard, {.method = method});
    EXPECT_TRUE(heard.outcome.has_value());
    EXPECT_EQ(heard.body, "");
  }
  EXPECT_EQ(server_->stats().connections_accepted, 1U);
}

TEST_F(HttpClientTest, ManyCallsAtOnce) {
  struct Slow final : Transaction {
    explicit Slow(Exchange& e) {
      timer = e.loop().after(20ms, [&e] { e.respond(200, "text/plain", e.request().target); });
    }
    void on_client_gone() override { ADD_FAILURE(); }
    std::unique_ptr<Loop::Timer> timer;
  };
  start_server([](Exchange& e) { e.own(std::make_unique<Slow>(e)); });
  constexpr std::size_t kCalls = 3000;
  std::vector<Heard> heard(kCalls);
  std::vector<std::unique_ptr<HttpCallHandle>> handles;
  run_on(thread_->loop(), [&] {
    for (std::size_t i = 0; i < kCalls; ++i) {
      handles.push_back(client_->call({.path = fmt::format("/{}", i)}, heard[i]));
    }
  });
  for (std::size_t i = 0; i < kCalls; ++i) {
    ASSERT_TRUE(eventually([&] { return heard[i].done.load(); }));
    ASSERT_TRUE(heard[i].outcome.has_value()) << heard[i].outcome.error().message;
    ASSERT_EQ(heard[i].body, fmt::format("/{}", i));
  }
  run_on(thread_->loop(), [&] { handles.clear(); });
}

TEST_F(HttpClientTest, KeepsNoMoreIdleConnectionsThanItMay) {
  start_server([](Exchange& e) { e.respond(200, "text/plain", "ok"); });
  run_on(thread_->loop(), [&] {
    client_ = make_http_client(thread_->loop(), {.host = "127.0.0.1", .port = server_->port()}, 2);
  });
  std::vector<Heard> heard(10);
  std::vector<std::unique_ptr<HttpCallHandle>> handles;
  run_on(thread_->loop(), [&] {
    for (Heard& one : heard) handles.push_back(client_->call({}, one));
  });
  for (Heard& one : heard) ASSERT_TRUE(eventually([&] { return one.done.load(); }));
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 2; }));
  run_on(thread_->loop(), [&] { handles.clear(); });
}

TEST_F(HttpClientTest, AServerThatIsNotThereIsUnavailable) {
  std::uint16_t port = 0;
  {
    const RawListener closed_again;
    port = closed_again.port();
  }
  start_client(port);
  Heard heard;
  call_and_wait(heard);
  expect_failure(heard, Code::kUnavailable, fmt::format("cannot connect to 127.0.0.1:{}", port));
}

TEST_F(HttpClientTest, AHostThatDoesNotExistIsUnavailable) {
  start_client(80, "no-such-host.invalid");
  Heard heard;
  call_and_wait(heard);
  expect_failure(heard, Code::kUnavailable, "cannot resolve no-such-host.invalid:80");
}

TEST_F(HttpClientTest, ACallEndsAtItsDeadline) {
  struct Told final : Transaction {
    explicit Told(std::atomic<bool>& gone) : gone_(gone) {}
    void on_client_gone() override { gone_ = true; }
    std::atomic<bool>& gone_;
  };
  std::atomic<bool> gone = false;
  start_server([&](Exchange& e) { e.own(std::make_unique<Told>(gone)); });
  Heard heard;
  call_and_wait(heard, {.deadline = Deadline(std::chrono::steady_clock::now() + 30ms)});
  expect_failure(heard, Code::kDeadlineExceeded, "in time");
  if (server_->stats().requests > 0) {
    EXPECT_TRUE(eventually([&] { return gone.load(); }));
  }
  Heard late;
  call_and_wait(late, {.deadline = Deadline(std::chrono::steady_clock::now() - 1s)});
  expect_failure(late, Code::kDeadlineExceeded, "in time");
  server_->stop();  // before `gone` goes
}

TEST_F(HttpClientTest, DestroyingTheHandleCancels) {
  struct Told final : Transaction {
    explicit Told(std::atomic<int>& gone) : gone_(gone) {}
    void on_client_gone() override { ++gone_; }
    std::atomic<int>& gone_;
  };
  std::atomic<int> gone = 0;
  start_server([&](Exchange& e) {
    e.own(std::make_unique<Told>(gone));
    if (e.request().path() == "/stream") {
      e.start_stream("text/plain");
      e.write("x");
      e.flush();
    }
  });
  Heard waiting;
  call(waiting);
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 1; }));
  run_on(thread_->loop(), [&] { handle_.reset(); });
  EXPECT_TRUE(eventually([&] { return gone == 1; }));
  Heard streaming;
  std::atomic<bool> cancelled = false;
  streaming.then_on_body = [&] {
    handle_.reset();  // from inside the callback
    cancelled = true;
  };
  call(streaming, {.path = "/stream"});
  EXPECT_TRUE(eventually([&] { return cancelled.load(); }));
  EXPECT_TRUE(eventually([&] { return gone == 2; }));
  Heard at_head;
  at_head.then_on_headers = [&] { handle_.reset(); };
  call(at_head, {.path = "/stream"});
  EXPECT_TRUE(eventually([&] { return gone == 3; }));
  run_on(thread_->loop(), [] {});
  EXPECT_FALSE(waiting.done || streaming.done || at_head.done);
  EXPECT_EQ(at_head.body, "");
}

TEST_F(HttpClientTest, TheHandleOrTheClientMayBeDestroyedWhenTheCallIsDone) {
  start_server([](Exchange& e) { e.respond(200, "text/plain", "ok"); });
  Heard first;
  first.then_on_done = [&] { handle_.reset(); };
  call_and_wait(first);
  EXPECT_TRUE(first.outcome.has_value());
  Heard second;
  second.then_on_done = [&] { client_.reset(); };
  call_and_wait(second);
  EXPECT_TRUE(second.outcome.has_value());
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
}

TEST_F(HttpClientTest, TheNextCallFromOnDoneReusesTheConnection) {
  start_server([](Exchange& e) { e.respond(200, "text/plain", e.request().target); });
  Heard second;
  std::unique_ptr<HttpCallHandle> second_handle;
  Heard first;
  first.then_on_done = [&] { second_handle = client_->call({.path = "/2"}, second); };
  call_and_wait(first, {.path = "/1"});
  ASSERT_TRUE(eventually([&] { return second.done.load(); }));
  EXPECT_EQ(second.body, "/2");
  EXPECT_EQ(server_->stats().connections_accepted, 1U);
  run_on(thread_->loop(), [&] { second_handle.reset(); });
}

TEST_F(HttpClientTest, DestroyingTheClientEndsItsCalls) {
  start_server([](Exchange& e) {
    struct Quiet final : Transaction {
      void on_client_gone() override {}
    };
    e.own(std::make_unique<Quiet>());
  });
  Heard heard;
  call(heard, {.deadline = Deadline(std::chrono::steady_clock::now() + 1h)});
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 1; }));
  run_on(thread_->loop(), [&] { client_.reset(); });
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  run_on(thread_->loop(), [&] { handle_.reset(); });  // outlived its client
  EXPECT_FALSE(heard.done);
}

TEST_F(HttpClientTest, AConnectionTheServerClosedWhileIdleIsNotUsed) {
  HttpServerOptions options;
  options.idle_timeout = 1ms;
  start_server([](Exchange& e) { e.respond(200, "text/plain", "ok"); }, options);
  for (int i = 0; i < 2; ++i) {
    Heard heard;
    call_and_wait(heard);
    ASSERT_TRUE(heard.outcome.has_value());
    ASSERT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  }
}

/// A server in the test's hands: accepts, waits for a request, answers what it is told.
class ScriptedHttpClientTest : public HttpClientTest {
 protected:
  ScriptedHttpClientTest() { start_client(listener_.port()); }

  /// One call, answered with `answer`, after which the server closes.
  void call_answered(Heard& heard, std::string_view answer, HttpCall what = {}) {
    call(heard, std::move(what));
    RawSocket server = listener_.accept();
    server.read_until("\r\n\r\n");
    server.send(answer);
    server.shut_down_sending();
    ASSERT_TRUE(eventually([&] { return heard.done.load(); }));
  }

  RawListener listener_;
};

TEST_F(ScriptedHttpClientTest, UnderstandsEveryFraming) {
  for (const std::string answer :
       {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: t\r\n\r\n"}) {
    Heard heard;
    call_answered(heard, answer);
    EXPECT_TRUE(heard.outcome.has_value()) << answer;
    EXPECT_EQ(heard.status, 200);
    EXPECT_EQ(heard.body, "hello");
  }
}

TEST_F(ScriptedHttpClientTest, ATruncatedAnswerIsAFailure) {
  for (const std::string answer :
       {"", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n"}) {
    Heard heard;
    call_answered(heard, answer);
    expect_failure(heard, Code::kUnavailable, "before its answer was complete");
  }
}

TEST_F(ScriptedHttpClientTest, WhatIsNotHttpIsAFailure) {
  for (const std::string& answer :
       {std::string("SSH-2.0-OpenSSH_9.2\r\n\r\n"), std::string("HTTP/2 200\r\n\r\n"),
        std::string("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nA: " + std::string(100'000, 'a'),
        std::string("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        std::string("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")}) {
    Heard heard;
    call_answered(heard, answer);
    expect_failure(heard, Code::kUnavailable, "did not answer in HTTP/1.x");
  }
}

TEST_F(ScriptedHttpClientTest, BytesPastTheAnswerCostTheConnection) {
  Heard heard;
  call(heard);
  RawSocket server = listener_.accept();
  server.read_until("\r\n\r\n");
  server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n");
  ASSERT_TRUE(eventually([&] { return heard.done.load(); }));
  EXPECT_EQ(heard.body, "ok");
  EXPECT_TRUE(server.at_end());
}

TEST_F(ScriptedHttpClientTest, ARequestThatMetAClosingConnectionIsSentOnceMore) {
  Heard first;
  call(first);
  RawSocket server = listener_.accept();
  server.read_until("\r\n\r\n");
  server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  ASSERT_TRUE(eventually([&] { return first.done.load(); }));

  Heard second;
  call(second, {.path = "/again"});
  EXPECT_THAT(server.read_until("\r\n\r\n"), HasSubstr("POST /again "));  // reused, then dies
  server.close();
  server = listener_.accept();
  EXPECT_THAT(server.read_until("\r\n\r\n"), HasSubstr("POST /again "));
  server.close();  // once more, and no more
  ASSERT_TRUE(eventually([&] { return second.done.load(); }));
  expect_failure(second, Code::kUnavailable, "closed the connection");
}

TEST_F(ScriptedHttpClientTest, ARequestWhoseAnswerHadBegunIsNotSentAgain) {
  Heard first;
  call(first);
  RawSocket server = listener_.accept();
  server.read_until("\r\n\r\n");
  server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  ASSERT_TRUE(eventually([&] { return first.done.load(); }));
  Heard second;
  call(second);
  server.read_until("\r\n\r\n");
  server.send("H");
  server.shut_down_sending();
  ASSERT_TRUE(eventually([&] { return second.done.load(); }));
  EXPECT_FALSE(second.outcome.has_value());
}

TEST_F(ScriptedHttpClientTest, AnAnswerBeforeTheWholeRequestWasSentIsHeard) {
  Heard heard;
  call(heard, {.body = std::string(64 * 1024 * 1024, 'b')});
  RawSocket server = listener_.accept();
  server.read_until("\r\n\r\n");
  server.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
  ASSERT_TRUE(eventually([&] { return heard.done.load(); }));
  EXPECT_TRUE(heard.outcome.has_value());
  EXPECT_EQ(heard.status, 413);
}

}  // namespace
}  // namespace penstock::net
