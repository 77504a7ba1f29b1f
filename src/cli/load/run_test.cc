#include "cli/load/run.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/load/find_model.h"
#include "net/http_server.h"

namespace penstock::cli::load {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

/// How long a test waits for what must happen. Reached only by a test that fails.
constexpr Nanos kPatience = 60s;

/// Real time, that a test can also move ahead.
class LeapingClock final : public Clock {
 public:
  [[nodiscard]] TimePoint now() const noexcept override {
    return std::chrono::steady_clock::now() + ahead_.load();
  }
  void leap(Nanos by) { ahead_.store(ahead_.load() + by); }

 private:
  std::atomic<Nanos> ahead_{Nanos::zero()};
};

std::string server_event(const std::string& json) { return "data: " + json + "\n\n"; }
std::string content(const std::string& text) {
  return server_event(R"({"choices":[{"delta":{"content":")" + text +
                      R"("},"finish_reason":null}]})");
}
const std::string kServerFinish =
    server_event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})");
const std::string kServerUsage =
    server_event(R"({"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":4,)"
                 R"("prompt_tokens_details":{"cached_tokens":5}}})");
const std::string kServerDone = "data: [DONE]\n\n";

void answer_stream(net::Exchange& exchange, const std::string& events) {
  exchange.start_stream("text/event-stream");
  exchange.write(events);
  exchange.finish();
}

void answer_well(net::Exchange& exchange) {
  answer_stream(exchange,
                content("Hello") + content(" you") + kServerFinish + kServerUsage + kServerDone);
}

/// A server whose answers are a function of the number of the request.
class Server final : private net::HttpHandler {
 public:
  using Answer = std::function<void(Server&, net::Exchange&, std::size_t number)>;

  explicit Server(Answer answer) : answer_(std::move(answer)) {
    net::HttpServerOptions options;
    options.port = 0;
    options.loops = 2;
    auto server = net::start_http_server(options, *this);
    EXPECT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  ~Server() override { server_->stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  [[nodiscard]] net::Url url() const {
    return {.host = "127.0.0.1", .port = server_->port(), .path = ""};
  }
  [[nodiscard]] std::vector<std::string> bodies() const {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  [[nodiscard]] std::vector<std::string> heads() const {
    const std::lock_guard lock(mutex_);
    return heads_;
  }

  /// Keeps the request unanswered until release().
  void hold(net::Exchange& exchange) {
    const std::lock_guard lock(mutex_);
    auto held = std::make_unique<Held>(*this, exchange);
    held_.push_back(held.get());
    exchange.own(std::move(held));
    changed_.notify_all();
  }
  bool wait_for_held(std::size_t count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return held_.size() >= count; });
  }
  /// Answers well what is held, on its own loop.
  void release() {
    const std::lock_guard lock(mutex_);
    for (Held* held : std::exchange(held_, {})) {
      held->exchange.loop().post([&exchange = held->exchange] { answer_well(exchange); });
    }
  }

 private:
  struct Held final : net::Transaction {
    Held(Server& server, net::Exchange& held_exchange) : owner(server), exchange(held_exchange) {}
    ~Held() override {
      const std::lock_guard lock(owner.mutex_);
      std::erase(owner.held_, this);
    }
    void on_client_gone() override {}
    Server& owner;
    net::Exchange& exchange;
  };

  void handle(net::Exchange& exchange) override {
    std::size_t number = 0;
    {
      const std::lock_guard lock(mutex_);
      number = bodies_.size();
      bodies_.push_back(exchange.request().body);
      heads_.push_back(fmt::format("{} {}", exchange.request().target,
                                   exchange.request().header("authorization")));
    }
    answer_(*this, exchange, number);
  }

  const Answer answer_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Held*> held_;
  std::vector<std::string> bodies_;
  std::vector<std::string> heads_;
  std::unique_ptr<net::HttpServer> server_;
};

LoadOptions options_for(const net::Url& url) {
  LoadOptions options;
  options.server = url;
  options.request.model = "m";
  options.concurrency = 1;
  options.timeout = 100h;
  return options;
}

/// A run with prompts of its own.
struct Trial {
  explicit Trial(LoadOptions settled)
      : options(std::move(settled)),
        prompts(make_generated_prompts({.endpoint = options.request.endpoint, .tokens = 8})),
        run(std::make_unique<LoadRun>(options, *prompts, trace, clock)) {}

  Statistics finish() {
    EXPECT_TRUE(run->wait_for(kPatience)) << "the run does not end";
    return run->collect().statistics;
  }

  LoadOptions options;
  std::unique_ptr<PromptSource> prompts;
  std::vector<TraceRequest> trace;
  LeapingClock clock;
  std::unique_ptr<LoadRun> run;
};

std::uint64_t count(const Statistics& s, Outcome outcome) {
  return s.ended[static_cast<std::size_t>(outcome)];
}

TEST(LoadRunTest, MeasuresStreams) {
  Server server([](Server&, net::Exchange& exchange, std::size_t) { answer_well(exchange); });
  LoadOptions options = options_for(server.url());
  options.requests = 20;
  options.request.api_key = "secret";
  const Statistics s = Trial(options).finish();
  EXPECT_EQ(count(s, Outcome::kOk), 20U);
  EXPECT_EQ(s.ttft.count(), 20U);
  EXPECT_EQ(s.itl.count(), 20U);  // two content events each
  EXPECT_EQ(s.tpot.count(), 20U);
  EXPECT_EQ(s.end_to_end.count(), 20U);
  EXPECT_LE(s.ttft.max(), s.end_to_end.max());
  EXPECT_EQ(s.prompt_tokens, 200U);
  EXPECT_EQ(s.cached_tokens, 100U);
  EXPECT_EQ(s.output_tokens, 80U);
  EXPECT_DOUBLE_EQ(s.output_tokens_in_window, 80);
  for (const std::string& head : server.heads()) {
    EXPECT_EQ(head, "/v1/chat/completions Bearer secret");
  }
  std::vector<std::string> bodies = server.bodies();
  EXPECT_THAT(bodies[0], HasSubstr(R"("stream_options":{"include_usage":true})"));
  std::ranges::sort(bodies);
  EXPECT_EQ(std::ranges::unique(bodies).size(), 0U) << "two prompts are alike";
}

TEST(LoadRunTest, WholeAnswersHaveNoTokenTimes) {
  Server server([](Server&, net::Exchange& exchange, std::size_t) {
    exchange.respond(200, "application/json",
                     R"({"choices":[{"text":"hi","finish_reason":"stop"}],)"
                     R"("usage":{"prompt_tokens":3,"completion_tokens":2}})");
  });
  LoadOptions options = options_for(server.url());
  options.requests = 5;
  options.request.stream = false;
  options.request.endpoint = Endpoint::kCompletions;
  const Statistics s = Trial(options).finish();
  EXPECT_EQ(count(s, Outcome::kOk), 5U);
  EXPECT_EQ(s.ttft.count(), 0U);
  EXPECT_EQ(s.tpot.count(), 0U);
  EXPECT_EQ(s.end_to_end.count(), 5U);
  EXPECT_EQ(s.output_tokens, 10U);
  EXPECT_EQ(server.heads()[0], "/v1/completions ");
}

TEST(LoadRunTest, ErrorsAreCountedByKind) {
  const std::string hi = content("hi");
  Server server([&](Server&, net::Exchange& exchange, std::size_t number) {
    switch (number) {
      case 0: exchange.respond(429, "application/json", R"({"error":{"message":"full"}})"); break;
      case 1: exchange.respond(500, "text/plain", "oh"); break;
      case 2: answer_stream(exchange, hi + server_event(R"({"error":{"message":"boom"}})")); break;
      case 3: answer_stream(exchange, hi + kServerFinish); break;
      case 4: answer_stream(exchange, hi + kServerDone); break;
      case 5: answer_stream(exchange, kServerFinish + kServerDone); break;
      case 6: answer_stream(exchange, hi + server_event("{oops") + kServerDone); break;
      default: answer_well(exchange);
    }
  });
  LoadOptions options = options_for(server.url());
  options.requests = 10;
  options.concurrency = 10;  // failed slots rest: the others need not wait for them
  Trial trial(options);
  const Statistics s = trial.finish();
  EXPECT_EQ(count(s, Outcome::kStatus), 2U);
  EXPECT_EQ(s.failed_by_status, (std::map<int, std::uint64_t>{{429, 1}, {500, 1}}));
  EXPECT_EQ(count(s, Outcome::kStreamError), 1U);
  EXPECT_EQ(count(s, Outcome::kIncomplete), 2U);
  EXPECT_EQ(count(s, Outcome::kEmpty), 1U);
  EXPECT_EQ(count(s, Outcome::kMalformed), 1U);
  EXPECT_EQ(count(s, Outcome::kOk), 3U);
  EXPECT_EQ(trial.run->live().failed.load(), 7U);
  EXPECT_EQ(trial.run->live().in_flight(), 0U);
}

TEST(LoadRunTest, NoAnswerInTimeIsATimeout) {
  Server server([](Server& self, net::Exchange& exchange, std::size_t) { self.hold(exchange); });
  LoadOptions options = options_for(server.url());
  options.requests = 3;
  options.concurrency = 3;
  options.timeout = 20ms;
  const Statistics s = Trial(options).finish();
  EXPECT_EQ(count(s, Outcome::kTimeout), 3U);
}

/// A listening socket whose connections a test answers by hand; or nobody does, once closed.
class RawPort final {
 public:
  RawPort() : descriptor_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    ::listen(descriptor_, 8);
    socklen_t size = sizeof address;
    ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~RawPort() { close(); }
  RawPort(const RawPort&) = delete;
  RawPort& operator=(const RawPort&) = delete;

  void close() {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  }
  /// Accepts a connection, reads of it, sends `bytes` and closes.
  void answer_one(const std::string& bytes) const {
    const int connection = ::accept(descriptor_, nullptr, nullptr);
    char buffer[16384];
    EXPECT_GT(::recv(connection, buffer, sizeof buffer, 0), 0);
    EXPECT_EQ(::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
    ::close(connection);
  }
  [[nodiscard]] net::Url url() const { return {.host = "127.0.0.1", .port = port_, .path = ""}; }

 private:
  int descriptor_;
  std::uint16_t port_ = 0;
};

TEST(LoadRunTest, RefusedAndBrokenConnectionsAreCounted) {
  RawPort port;
  LoadOptions options = options_for(port.url());
  options.requests = 1;
  std::thread server([&] {
    port.answer_one("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + content("half"));
  });
  EXPECT_EQ(count(Trial(options).finish(), Outcome::kConnection), 1U);
  server.join();
  port.close();
  const Statistics refused = Trial(options).finish();
  EXPECT_EQ(count(refused, Outcome::kConnection), 1U);
  EXPECT_THAT(refused.sample_messages[static_cast<std::size_t>(Outcome::kConnection)],
              HasSubstr("refused"));
}

TEST(LoadRunTest, AnOpenLoopCountsFromTheIntendedTime) {
  constexpr Nanos kBlocked = 1000s;
  Server server([](Server& self, net::Exchange& exchange, std::size_t number) {
    number == 0 ? self.hold(exchange) : answer_well(exchange);
  });
  LoadOptions options = options_for(server.url());
  options.pacing = Pacing::kRate;
  options.spacing = Spacing::kUniform;
  options.rate_per_s = 10000;
  options.requests = 5;
  options.in_flight_max = 1;
  Trial trial(options);
  ASSERT_TRUE(server.wait_for_held(1));
  trial.clock.leap(kBlocked);  // the server is blocked for so long; all five come in meanwhile
  server.release();
  const Statistics s = trial.finish();
  EXPECT_EQ(count(s, Outcome::kOk), 5U);
  EXPECT_EQ(s.ttft.count(), 5U);
  EXPECT_GT(s.ttft.percentile(1), kBlocked - 1s);  // of the four that were sent later, too
  EXPECT_GT(s.end_to_end.percentile(1), kBlocked - 1s);
  EXPECT_EQ(s.waited_for_slot, 4U);
}

TEST(LoadRunTest, ALateGeneratorIsSeen) {
  Trial* to_leap = nullptr;
  std::promise<void> ready;
  const std::shared_future<void> is_ready = ready.get_future().share();
  Server server([&](Server&, net::Exchange& exchange, std::size_t number) {
    is_ready.wait();
    if (number == 0) to_leap->clock.leap(1000s);
    answer_well(exchange);
  });
  LoadOptions options = options_for(server.url());
  options.pacing = Pacing::kRate;
  options.spacing = Spacing::kUniform;
  options.rate_per_s = 50;
  options.requests = 5;
  Trial trial(options);
  to_leap = &trial;
  ready.set_value();
  const Statistics s = trial.finish();
  EXPECT_EQ(s.send_lag.count(), 5U);
  EXPECT_GE(s.late_sends, 1U);
  EXPECT_EQ(s.waited_for_slot, 0U);
  EXPECT_GT(s.send_lag.max(), 999s);
}

TEST(LoadRunTest, WhatCannotBeSentInItsTimeIsATimeout) {
  Server server([](Server& self, net::Exchange& exchange, std::size_t) { self.hold(exchange); });
  LoadOptions options = options_for(server.url());
  options.pacing = Pacing::kRate;
  options.spacing = Spacing::kUniform;
  options.rate_per_s = 10000;
  options.requests = 5;
  options.in_flight_max = 1;
  Trial trial(options);
  ASSERT_TRUE(server.wait_for_held(1));
  trial.clock.leap(200h);  // beyond the timeout of 100 h
  server.release();
  const Statistics s = trial.finish();
  EXPECT_EQ(count(s, Outcome::kOk), 1U);
  EXPECT_EQ(count(s, Outcome::kTimeout), 4U);
  EXPECT_EQ(server.bodies().size(), 1U);
}

TEST(LoadRunTest, AClosedLoopSendsAsManyAsAskedAndNoMoreAtOnce) {
  for (const std::size_t threads : {1, 3}) {
    Server server([](Server& self, net::Exchange& exchange, std::size_t) { self.hold(exchange); });
    LoadOptions options = options_for(server.url());
    options.requests = 24;
    options.concurrency = 8;
    options.threads = threads;
    Trial trial(options);
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(server.wait_for_held(8));
      EXPECT_EQ(trial.run->live().in_flight(), 8U);
      server.release();
    }
    const Statistics s = trial.finish();
    EXPECT_EQ(count(s, Outcome::kOk), 24U);
    EXPECT_EQ(s.requests_in_window, 24U);
    EXPECT_EQ(server.bodies().size(), 24U);
  }
}

TEST(LoadRunTest, AnOpenLoopOverThreadsSendsEachPromptOnce) {
  Server server([](Server&, net::Exchange& exchange, std::size_t) { answer_well(exchange); });
  LoadOptions options = options_for(server.url());
  options.pacing = Pacing::kRate;
  options.rate_per_s = 1e6;
  options.requests = 300;
  options.threads = 3;
  EXPECT_EQ(count(Trial(options).finish(), Outcome::kOk), 300U);
  std::vector<std::string> bodies = server.bodies();
  EXPECT_EQ(bodies.size(), 300U);
  std::ranges::sort(bodies);
  EXPECT_EQ(std::ranges::unique(bodies).size(), 0U);
}

TEST(LoadRunTest, TracesAreReplayedToTheirEnd) {
  Server server([](Server&, net::Exchange& exchange, std::size_t) { answer_well(exchange); });
  LoadOptions options = options_for(server.url());
  options.pacing = Pacing::kTrace;
  options.speed = 1000;
  const std::vector<TraceRequest> trace = {
      {.at = 0s, .input_tokens = 5, .output_tokens = 11, .blocks = {1}},
      {.at = 1s, .input_tokens = 5, .output_tokens = 12, .blocks = {1}},
      {.at = 2s, .input_tokens = 5, .output_tokens = 13, .blocks = {2}}};
  const auto prompts = make_trace_prompts({}, trace);
  const SteadyClock clock;
  LoadRun run(options, *prompts, trace, clock);
  ASSERT_TRUE(run.wait_for(kPatience));
  EXPECT_EQ(count(run.collect().statistics, Outcome::kOk), 3U);
  std::vector<std::string> bodies = server.bodies();
  ASSERT_EQ(bodies.size(), 3U);
  std::ranges::sort(bodies, {},
                    [](const std::string& body) { return body.substr(body.find("max_tokens")); });
  EXPECT_THAT(bodies[0], HasSubstr(R"("max_tokens":11)"));
  EXPECT_THAT(bodies[2], HasSubstr(R"("max_tokens":13)"));
  const auto prompt_of = [](const std::string& body) {
    return body.substr(0, body.find("max_tokens"));
  };
  EXPECT_EQ(prompt_of(bodies[0]), prompt_of(bodies[1]));
  EXPECT_NE(prompt_of(bodies[0]), prompt_of(bodies[2]));
}

TEST(LoadRunTest, EachTurnCarriesTheConversationSoFar) {
  Server server([](Server&, net::Exchange& exchange, std::size_t number) {
    answer_stream(exchange,
                  content(fmt::format("answer {}", number)) + kServerFinish + kServerDone);
  });
  LoadOptions options = options_for(server.url());
  options.requests = 6;
  options.turns = 3;
  const Statistics s = Trial(options).finish();
  EXPECT_EQ(count(s, Outcome::kOk), 6U);
  const std::vector<std::string> bodies = server.bodies();
  ASSERT_EQ(bodies.size(), 6U);
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const std::string history = bodies[i].substr(0, bodies[i].find("],\"max_tokens\""));
    if (i % 3 == 2) {
      EXPECT_EQ(bodies[i].find(fmt::format("answer {}", i)), std::string::npos);
      continue;
    }
    const std::string with_answer =
        history +
        fmt::format(R"(,{{"role":"assistant","content":"answer {}"}},{{"role":"user",)", i);
    EXPECT_TRUE(bodies[i + 1].starts_with(with_answer)) << bodies[i + 1];
  }
  EXPECT_EQ(bodies[3].find("answer"), std::string::npos);  // another session
}

TEST(LoadRunTest, WarmUpIsSentButNotMeasured) {
  Trial* to_leap = nullptr;
  std::promise<void> ready;
  const std::shared_future<void> is_ready = ready.get_future().share();
  Server server([&](Server&, net::Exchange& exchange, std::size_t number) {
    is_ready.wait();
    if (number == 4) to_leap->clock.leap(1h);
    answer_well(exchange);
  });
  LoadOptions options = options_for(server.url());
  options.requests = 7;
  options.warm_up = 1h;
  Trial trial(options);
  to_leap = &trial;
  ready.set_value();
  const Statistics s = trial.finish();
  EXPECT_EQ(count(s, Outcome::kOk), 7U);
  EXPECT_EQ(server.bodies().size(), 5U + 7U);
}

TEST(LoadRunTest, StopCutsOffWhatIsInFlight) {
  Server server([](Server& self, net::Exchange& exchange, std::size_t number) {
    number < 3 ? answer_well(exchange) : self.hold(exchange);
  });
  for (const Pacing pacing : {Pacing::kClosed, Pacing::kRate}) {
    LoadOptions options = options_for(server.url());
    options.pacing = pacing;
    options.rate_per_s = 1000;
    options.concurrency = 4;
    options.in_flight_max = 4;
    options.threads = 2;
    options.duration = 1000h;
    const std::size_t before = server.bodies().size();
    Trial trial(options);
    ASSERT_TRUE(server.wait_for_held(4));
    EXPECT_FALSE(trial.run->wait_for(0s));
    trial.run->stop();
    ASSERT_TRUE(trial.run->wait_for(kPatience));
    const RunResult result = trial.run->collect();
    EXPECT_TRUE(result.interrupted);
    EXPECT_EQ(count(result.statistics, Outcome::kUnfinished), 4U);
    EXPECT_EQ(count(result.statistics, Outcome::kOk), server.bodies().size() - before - 4);
    EXPECT_EQ(trial.run->live().failed.load(), 0U);
  }
}

TEST(LoadRunTest, MayBeDestroyedInTheMiddle) {
  Server server([](Server& self, net::Exchange& exchange, std::size_t) { self.hold(exchange); });
  LoadOptions options = options_for(server.url());
  options.concurrency = 3;
  options.duration = 1000h;
  Trial trial(options);
  ASSERT_TRUE(server.wait_for_held(3));
  trial.run.reset();
}

TEST(FindModelTest, IsTheFirstOfTheList) {
  Server server([](Server&, net::Exchange& exchange, std::size_t) {
    exchange.respond(200, "application/json", R"({"data":[{"id":"first"},{"id":"second"}]})");
  });
  net::Url url = server.url();
  url.path = "/below";
  const Result<std::string> model = find_model(url, "k", kPatience);
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(*model, "first");
  EXPECT_EQ(server.heads()[0], "/below/v1/models Bearer k");
}

TEST(FindModelTest, SaysWhatIsWrong) {
  Server server([](Server&, net::Exchange& exchange, std::size_t number) {
    number == 0 ? exchange.respond(401, "application/json", R"({"error":{"message":"no key"}})")
                : exchange.respond(200, "application/json", R"({"data":[]})");
  });
  const Result<std::string> denied = find_model(server.url(), "", kPatience);
  ASSERT_FALSE(denied);
  EXPECT_THAT(denied.error().message, HasSubstr("status 401, no key"));
  const Result<std::string> none = find_model(server.url(), "", kPatience);
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().message, HasSubstr("empty"));
  RawPort port;
  port.close();
  const Result<std::string> refused = find_model(port.url(), "", kPatience);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("--url"));
}

}  // namespace
}  // namespace penstock::cli::load
