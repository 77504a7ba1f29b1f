#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "net/http_server.h"
#include "net/internal/test_support.h"

// Answers under way: clients that read slowly or not at all, and clients that leave.

namespace penstock::net {
namespace {

using namespace std::chrono_literals;
using test::Answer;
using test::eventually;
using test::FunctionHandler;
using test::Held;
using test::RawSocket;
using test::run_on;

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// What a test learns about the transactions of its handler. Any thread.
struct Ledger {
  std::atomic<int> opened = 0;
  std::atomic<int> closed = 0;
  std::atomic<int> gone = 0;
  std::atomic<int> writable = 0;
  std::atomic<Exchange*> last = nullptr;
};

class Recorded : public Transaction {
 public:
  explicit Recorded(Ledger& ledger) : ledger_(ledger) { ++ledger_.opened; }
  ~Recorded() override { ++ledger_.closed; }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  void on_client_gone() override { ++ledger_.gone; }
  void on_writable() override { ++ledger_.writable; }

 private:
  Ledger& ledger_;
};

class HttpServerStreamTest : public testing::Test {
 protected:
  void start(FunctionHandler::Function handle, const HttpServerOptions& options = {}) {
    handler_ = std::make_unique<FunctionHandler>(std::move(handle));
    server_ = test::start_for_test(*handler_, options);
    ASSERT_NE(server_, nullptr);
  }

  /// A handler that begins a stream, or not, and leaves it open.
  void start_open(bool streaming, const HttpServerOptions& options = {}) {
    start(
        [this, streaming](Exchange& e) {
          e.own(std::make_unique<Recorded>(ledger_));
          if (streaming) {
            e.start_stream("text/event-stream");
            e.write("first");
            e.flush();
          }
          ledger_.last = &e;
        },
        options);
  }

  [[nodiscard]] RawSocket connect(int receive_buffer_bytes = 0) const {
    return RawSocket::connect(server_->port(), receive_buffer_bytes);
  }

  RawSocket connect_and_get(int receive_buffer_bytes = 0) {
    const int before = ledger_.opened;
    ledger_.last = nullptr;
    RawSocket client;
    {
      const Held held(server_->loop(0));  // the shortest of timeouts must not strike in between
      client = connect(receive_buffer_bytes);
      client.send(kGet);
    }
    EXPECT_TRUE(eventually([&] { return ledger_.last != nullptr; }));
    EXPECT_EQ(ledger_.opened, before + 1);
    return client;
  }

  void on_loop(std::function<void(Exchange&)> task) {
    run_on(server_->loop(0), [&] { task(*ledger_.last.load()); });
  }

  void expect_one_gone() {
    EXPECT_TRUE(eventually([&] { return ledger_.closed == 1; }));
    EXPECT_EQ(ledger_.gone, 1);
    EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
    EXPECT_EQ(server_->stats().exchanges_open, 0U);
    EXPECT_EQ(server_->stats().clients_gone, 1U);
  }

  Ledger ledger_;
  std::unique_ptr<FunctionHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

enum class Leaving { kClose, kReset, kHalfClose };

class LeavingTest : public HttpServerStreamTest,
                    public testing::WithParamInterface<std::tuple<Leaving, bool>> {
 protected:
  static void leave(RawSocket& client) {
    switch (std::get<0>(GetParam())) {
      case Leaving::kClose: client.close(); break;
      case Leaving::kReset: client.reset(); break;
      case Leaving::kHalfClose: client.shut_down_sending(); break;
    }
  }
};

TEST_P(LeavingTest, IsToldToTheTransaction) {
  start_open(std::get<1>(GetParam()));
  RawSocket client = connect_and_get();
  leave(client);
  expect_one_gone();
}

TEST_P(LeavingTest, IsToldBehindPipelinedBytes) {
  start_open(std::get<1>(GetParam()));
  RawSocket client = connect_and_get();
  client.send(kGet.substr(0, 20));
  leave(client);
  expect_one_gone();
}

TEST_P(LeavingTest, IsToldWhenTheServerHasStoppedReading) {
  HttpServerOptions options;
  options.header_bytes_max = 4096;
  start_open(std::get<1>(GetParam()), options);
  RawSocket client = connect_and_get();
  client.send(std::string(20'000, 'x'));  // far more than it keeps of a next request
  leave(client);
  expect_one_gone();
}

INSTANTIATE_TEST_SUITE_P(, LeavingTest,
                         testing::Combine(testing::Values(Leaving::kClose, Leaving::kReset,
                                                          Leaving::kHalfClose),
                                          testing::Bool()));

TEST_F(HttpServerStreamTest, TooMuchPipelinedIsNotReadButNotLostEither) {
  HttpServerOptions options;
  options.header_bytes_max = 4096;
  start_open(false, options);
  RawSocket client = connect_and_get();
  constexpr int kMore = 400;  // 400 * 31 bytes
  std::string more;
  for (int i = 0; i < kMore; ++i) more += kGet;
  client.send(more);
  for (int i = 0; i <= kMore; ++i) {
    ASSERT_TRUE(eventually([&] { return ledger_.opened == i + 1 && ledger_.last != nullptr; }));
    on_loop([&](Exchange& e) {
      ledger_.last = nullptr;
      e.respond(200, "text/plain", "ok");
    });
    ASSERT_EQ(client.read_answer().body, "ok") << i;
  }
  EXPECT_EQ(ledger_.closed, kMore + 1);
  EXPECT_EQ(ledger_.gone, 0);
}

TEST_F(HttpServerStreamTest, UnsentBytesAreCountedAndRoomIsToldOnce) {
  HttpServerOptions options;
  options.unsent_bytes_high = 64 * 1024;
  options.unsent_bytes_low = 16 * 1024;
  start_open(true, options);
  RawSocket client = connect_and_get(4096);
  std::string sent = "first";
  on_loop([&](Exchange& e) {
    EXPECT_TRUE(e.writable());
    EXPECT_EQ(e.unsent_bytes(), 0U);
    for (char c = 'a'; e.writable(); c = c == 'z' ? 'a' : static_cast<char>(c + 1)) {
      const std::string piece(1000, c);
      e.write(piece);
      e.flush();
      sent += piece;
    }
    EXPECT_GE(e.unsent_bytes(), 64U * 1024);
    EXPECT_LE(e.unsent_bytes(), 64U * 1024 + 1010);
  });
  std::string tail = "tail";
  std::jthread finisher([&] {
    EXPECT_TRUE(eventually([&] { return ledger_.writable > 0; }));
    on_loop([&](Exchange& e) {
      EXPECT_TRUE(e.writable());
      EXPECT_LT(e.unsent_bytes(), 16U * 1024);
      e.write(tail);
      e.finish();
    });
  });
  const Answer answer = client.read_answer();
  finisher.join();
  EXPECT_TRUE(answer.complete);
  EXPECT_TRUE(answer.body == sent + tail);
  EXPECT_EQ(ledger_.writable, 1);
  EXPECT_EQ(ledger_.gone, 0);
  EXPECT_EQ(ledger_.closed, 1);
}

// The whole life of a slow stream: chunks as fast as writable() allows, to a client that reads.
TEST_F(HttpServerStreamTest, EveryByteArrivesHoweverTheSocketTakesThem) {
  class Pump final : public Transaction {
   public:
    Pump(Exchange& exchange, std::string& sent) : exchange_(exchange), sent_(sent) {}
    void on_client_gone() override { ADD_FAILURE(); }
    void on_writable() override { pump(); }
    void pump() {
      while (exchange_.writable()) {
        if (sent_.size() > 5'000'000) {
          exchange_.finish();
          return;
        }
        std::string piece(random_() % 9000, '\0');
        for (char& c : piece) c = static_cast<char>(random_());
        exchange_.write(piece);
        sent_ += piece;
        if (random_() % 4 != 0) exchange_.flush();
      }
      exchange_.flush();
      if (exchange_.writable()) pump();
    }

   private:
    Exchange& exchange_;
    std::string& sent_;
    std::mt19937 random_{7};
  };
  std::string sent;
  HttpServerOptions options;
  options.unsent_bytes_high = 100'000;
  options.unsent_bytes_low = 10'000;
  start(
      [&](Exchange& e) {
        sent.clear();
        auto pump = std::make_unique<Pump>(e, sent);
        Pump& unowned = *pump;
        e.own(std::move(pump));
        e.start_stream("application/octet-stream");
        unowned.pump();
      },
      options);
  RawSocket client = connect(8192);
  for (int i = 0; i < 2; ++i) {
    client.send(kGet);
    const Answer answer = client.read_answer();
    ASSERT_TRUE(answer.complete);
    EXPECT_TRUE(answer.body == sent);
  }
}

TEST_F(HttpServerStreamTest, ALargeAnswerIsSentAsItIsTaken) {
  const std::string body(12 * 1024 * 1024, 'b');
  start([&](Exchange& e) { e.respond(200, "text/plain", body); });
  RawSocket client = connect(8192);
  std::string all;
  for (int i = 0; i < 3; ++i) all += kGet;
  client.send(all);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(client.read_answer().body == body);
}

TEST_F(HttpServerStreamTest, PipelinedRequestsOfAClientThatDoesNotReadAreNotBegun) {
  std::atomic<int> begun = 0;
  const std::string body(64 * 1024 * 1024, 'b');  // more than a kernel buffers
  start([&](Exchange& e) {
    ++begun;
    e.respond(200, "text/plain", body);
  });
  RawSocket client = connect(4096);
  std::string all;
  for (int i = 0; i < 100; ++i) all += kGet;
  client.send(all);
  ASSERT_TRUE(eventually([&] { return begun > 0; }));
  for (int i = 0; i < 100; ++i) run_on(server_->loop(0), [] {});
  EXPECT_EQ(begun, 1);  // what a second answer would add to memory is not there
  server_->stop();      // before `begun` goes
}

TEST_F(HttpServerStreamTest, AClientThatAcceptsNothingIsDropped) {
  HttpServerOptions options;
  options.write_stall_timeout = 50ms;
  start_open(true, options);
  RawSocket client = connect_and_get(4096);
  on_loop([](Exchange& e) {
    while (e.writable()) {
      e.write(std::string(10'000, 'a'));
      e.flush();
    }
  });
  expect_one_gone();
}

TEST_F(HttpServerStreamTest, AClientThatAcceptsNothingOfAFinishedAnswerIsDropped) {
  HttpServerOptions options;
  options.write_stall_timeout = 50ms;
  // More than a kernel buffers. The handler's own: it outlives the test's body, on the loop.
  start([body = std::string(64 * 1024 * 1024, 'b')](
            Exchange& e) { e.respond(200, "text/plain", body); },
        options);
  RawSocket client = connect(4096);
  client.send(kGet);
  ASSERT_TRUE(eventually([&] { return server_->stats().requests == 1; }));
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_EQ(server_->stats().clients_gone, 0U);
}

TEST_F(HttpServerStreamTest, ASilentStreamIsNotAStalledOne) {
  HttpServerOptions options;
  options.write_stall_timeout = 1ms;
  options.idle_timeout = 1ms;
  options.header_timeout = 1ms;
  start_open(true, options);
  RawSocket silent = connect_and_get();
  Exchange* const exchange = ledger_.last;
  RawSocket watch = connect();  // idle for longer than any of these
  EXPECT_TRUE(watch.at_end());
  run_on(server_->loop(0), [&] {
    exchange->write("second");
    exchange->finish();
  });
  EXPECT_EQ(silent.read_answer().body, "firstsecond");
}

TEST_F(HttpServerStreamTest, AHandlerThatIgnoresWritableIsBounded) {
  HttpServerOptions options;
  options.stream_bytes_max = 1024 * 1024;
  start_open(true, options);
  RawSocket client = connect_and_get(4096);
  on_loop([&](Exchange& e) {
    for (int i = 0; i < 20'000; ++i) {
      e.write(std::string(1000, 'a'));
      e.flush();
      ASSERT_LE(e.unsent_bytes(), 1024U * 1024 + 1010);
    }
    EXPECT_EQ(ledger_.gone, 0);  // never told from inside a call
    EXPECT_EQ(ledger_.closed, 0);
  });
  expect_one_gone();
}

TEST_F(HttpServerStreamTest, AFailedSendIsToldInALaterTurn) {
  start_open(true);
  RawSocket client = connect_and_get();
  on_loop([&](Exchange& e) {
    client.reset();
    // The first send after the reset fails at the latest; neither may call back from inside.
    for (int i = 0; i < 3; ++i) {
      e.write("x");
      e.flush();
    }
    EXPECT_EQ(ledger_.gone, 0);
  });
  expect_one_gone();
}

TEST_F(HttpServerStreamTest, AnAnswerFinishedAfterTheClientLeftIsNobodysLoss) {
  start_open(true);
  RawSocket client = connect_and_get();
  on_loop([&](Exchange& e) {
    client.reset();
    e.write("x");
    e.finish();
  });
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_EQ(ledger_.closed, 1);
  EXPECT_EQ(ledger_.gone, 0);  // the answer had ended
}

TEST_F(HttpServerStreamTest, ExchangeMethodsDoNothingOnceTheClientIsGone) {
  class Stubborn final : public Transaction {
   public:
    Stubborn(Exchange& exchange, std::atomic<int>& ended) : exchange_(exchange), ended_(ended) {}
    ~Stubborn() override {
      use();
      ++ended_;
    }
    void on_client_gone() override {
      EXPECT_EQ(exchange_.request().path(), "/");
      use();
    }

   private:
    void use() {
      exchange_.start_stream("text/plain");
      exchange_.write("x");
      exchange_.flush();
      exchange_.finish();
      exchange_.respond(200, "text/plain", "x");
    }
    Exchange& exchange_;
    std::atomic<int>& ended_;
  };
  std::atomic<int> ended = 0;
  start([&](Exchange& e) { e.own(std::make_unique<Stubborn>(e, ended)); });
  RawSocket client = connect();
  client.send(kGet);
  ASSERT_TRUE(eventually([&] { return server_->stats().exchanges_open == 1; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return ended == 1; }));
}

// Clients that leave at any moment, in any manner, over handlers that answer in any manner.
TEST_F(HttpServerStreamTest, ThousandsOfCancelsLeakNothing) {
  class Random final : public Transaction {
   public:
    Random(Exchange& exchange, Ledger& ledger, unsigned seed)
        : exchange_(exchange), ledger_(ledger), random_(seed) {
      ++ledger_.opened;
      streaming_ = random_() % 4 != 0;
      if (streaming_) exchange_.start_stream("text/event-stream");
      plan();
    }
    ~Random() override { ++ledger_.closed; }
    void on_client_gone() override { ++ledger_.gone; }

   private:
    void plan() {
      timer_ =
          exchange_.loop().after(std::chrono::microseconds(random_() % 500), [this] { step(); });
    }
    void step() {
      if (!streaming_) {
        exchange_.respond(200, "text/plain", std::string(random_() % 20'000, 'r'));
      } else if (random_() % 6 == 0) {
        exchange_.finish();
      } else {
        exchange_.write(std::string(random_() % 3000, 's'));
        exchange_.flush();
        plan();
      }
    }
    Exchange& exchange_;
    Ledger& ledger_;
    std::mt19937 random_;
    bool streaming_ = false;
    std::unique_ptr<Loop::Timer> timer_;
  };
  unsigned seed = 0;  // loop thread only
  start([&](Exchange& e) {
    if (++seed % 5 == 0) {
      e.respond(200, "text/plain", e.request().body);
    } else {
      e.own(std::make_unique<Random>(e, ledger_, seed));
    }
  });
  constexpr int kClients = 4000;
  const auto run = [&](unsigned seed_of_thread) {
    std::mt19937 random(seed_of_thread);
    for (int i = 0; i < kClients / 2; ++i) {
      RawSocket client = connect();
      std::string bytes;
      for (unsigned k = 0; k < 1 + random() % 4; ++k) {
        bytes +=
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 300\r\n\r\n" + std::string(300, 'b');
      }
      bytes.resize(random() % (bytes.size() + 1));
      const bool answer_comes = bytes.size() > 400;
      client.send(bytes);
      if (random() % 3 == 0) client.send("GET");
      if (random() % 2 == 0) {
        char byte = 0;
        const bool wait = answer_comes && random() % 2 == 0;
        ::recv(client.descriptor(), &byte, 1, wait ? 0 : MSG_DONTWAIT);
      }
      switch (random() % 3) {
        case 0: client.reset(); break;
        case 1: client.shut_down_sending(); break;
        default: break;
      }
    }
  };
  {
    const std::jthread other(run, 1);
    run(2);
  }
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_accepted == kClients; }));
  EXPECT_TRUE(eventually([&] { return server_->stats().connections_open == 0; }));
  EXPECT_TRUE(eventually([&] { return ledger_.opened == ledger_.closed; }));
  EXPECT_EQ(server_->stats().exchanges_open, 0U);
  EXPECT_GT(ledger_.gone, 0);
  EXPECT_EQ(static_cast<int>(server_->stats().clients_gone), ledger_.gone);
}

}  // namespace
}  // namespace penstock::net
