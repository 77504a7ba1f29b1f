#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <simdjson.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "net/http_client.h"
#include "net/sse.h"
#include "serve/service.h"
#include "text/tiny_model.h"

namespace penstock::serve {

/// One HTTP answer, waited for on the test's thread.
class Call final : public net::HttpCallListener {
 public:
  void on_headers(int status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
  }
  void on_body(std::string_view bytes) override {
    const std::lock_guard lock(mutex_);
    body_ += bytes;
    changed_.notify_all();
  }
  void on_done(Result<void> outcome) override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    complete_ = outcome.has_value();
    changed_.notify_all();
  }
  std::string wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
    return body_;
  }
  void wait_for_bytes() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ || !body_.empty(); });
  }
  int status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }
  bool complete() {
    const std::lock_guard lock(mutex_);
    return complete_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int status_ = 0;
  std::string body_;
  bool done_ = false;
  bool complete_ = false;
};

/// The whole service over the tiny model, on a real socket.
class ServiceTest : public testing::Test {
 protected:
  explicit ServiceTest(const ServiceOptions& options = {}) : service_(options, clock_) {}

  void SetUp() override {
    const std::string path = testing::TempDir() + fmt::format("/serve-{}.gguf", getpid());
    text::tiny::write(path, 1, 0);
    ModelOptions options{.path = path, .names = {"tiny", "alias"}};
    options.llama.sequences_max = 4;
    options.llama.context_tokens = 1024;
    options.llama.threads = 1;
    configure(options);
    auto model = ServedModel::load(options, clock_, [](float) { return true; });
    std::filesystem::remove(path);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    model_ = std::move(*model);
    auto server = net::start_http_server({.port = 0, .loops = 2}, service_);
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = std::move(*server);
    service_.open(*server_);
    service_.set_model(*model_);
    loop_ = net::start_loop_thread();
  }

  virtual void configure(ModelOptions&) {}

  void TearDown() override {
    on_loop([this] { client_.reset(); });
    loop_.reset();
    if (server_ != nullptr) server_->stop();
    model_.reset();
    service_.close();
    server_.reset();
  }

  void on_loop(std::move_only_function<void()> task) {
    if (loop_ == nullptr) return;
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    loop_->loop().post([&] {
      task();
      const std::lock_guard lock(mutex);
      done = true;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return done; });
  }

  using Headers = std::vector<std::pair<std::string, std::string>>;

  std::unique_ptr<net::HttpCallHandle> start(Call& call, std::string path, std::string body,
                                             std::string method = "POST", Headers headers = {}) {
    std::unique_ptr<net::HttpCallHandle> handle;
    on_loop([&] {
      if (client_ == nullptr) {
        client_ = net::make_http_client(loop_->loop(),
                                        {.host = "127.0.0.1", .port = server_->port(), .path = ""});
      }
      handle = client_->call({.method = std::move(method),
                              .path = std::move(path),
                              .body = std::move(body),
                              .headers = std::move(headers)},
                             call);
    });
    return handle;
  }

  std::string ask(std::string path, std::string body, int status = 200, std::string method = "POST",
                  Headers headers = {}) {
    Call call;
    auto handle =
        start(call, std::move(path), std::move(body), std::move(method), std::move(headers));
    std::string answer = call.wait();
    EXPECT_EQ(call.status(), status) << answer;
    on_loop([&] { handle.reset(); });
    return answer;
  }

  std::string chat(const std::string& fields, int status = 200, int max_tokens = 12) {
    return ask(
        "/v1/chat/completions",
        fmt::format(R"({{"model":"tiny","messages":[{{"role":"user","content":"Hello there"}}],)"
                    R"("temperature":0,"max_tokens":{}{}{}}})",
                    max_tokens, fields.empty() ? "" : ",", fields),
        status);
  }

  static std::string text_at(std::string_view json, std::string_view pointer) {
    simdjson::dom::parser parser;
    const simdjson::dom::element document = parser.parse(json.data(), json.size());
    std::string_view text;
    EXPECT_EQ(document.at_pointer(pointer).get(text), simdjson::SUCCESS)
        << pointer << " in " << json;
    return std::string(text);
  }
  static std::int64_t number_at(std::string_view json, std::string_view pointer) {
    simdjson::dom::parser parser;
    const simdjson::dom::element document = parser.parse(json.data(), json.size());
    std::int64_t number = -1;
    EXPECT_EQ(document.at_pointer(pointer).get(number), simdjson::SUCCESS)
        << pointer << " in " << json;
    return number;
  }

  /// What /metrics has under this name, labels included; 0 if it has none.
  double metric(std::string_view name) {
    const std::string page = ask("/metrics", "", 200, "GET");
    const std::size_t at = page.find(fmt::format("\n{} ", name));
    return at == std::string::npos ? 0 : std::stod(page.substr(at + name.size() + 2));
  }

  /// The data of each event of a stream.
  static std::vector<std::string> events(std::string_view body) {
    std::vector<std::string> all;
    net::SseParser parser;
    parser.feed(body, [&](const net::SseEvent& e) { all.emplace_back(e.data); });
    return all;
  }

  SteadyClock clock_;
  Service service_;
  std::unique_ptr<ServedModel> model_;
  std::unique_ptr<net::HttpServer> server_;
  std::unique_ptr<net::LoopThread> loop_;
  std::unique_ptr<net::HttpClient> client_;
};

}  // namespace penstock::serve
