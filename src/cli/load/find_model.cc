#include "cli/load/find_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <memory>
#include <utility>

#include "cli/load/chunk.h"
#include "cli/load/run_on.h"

namespace penstock::cli::load {
namespace {

/// Collects one small answer.
class Collector final : public net::HttpCallListener {
 public:
  void on_headers(int status) override { status_ = status; }
  void on_body(std::string_view bytes) override {
    constexpr std::size_t kBytesMax = 1U << 20;
    body_.append(bytes.substr(0, kBytesMax - std::min(kBytesMax, body_.size())));
  }
  void on_done(Result<void> outcome) override { outcome_.set_value(std::move(outcome)); }

  Result<void> wait() { return outcome_.get_future().get(); }
  [[nodiscard]] int status() const { return status_; }
  [[nodiscard]] const std::string& body() const { return body_; }

 private:
  int status_ = 0;
  std::string body_;
  std::promise<Result<void>> outcome_;
};

}  // namespace

Result<std::string> find_model(const net::Url& server, const std::string& api_key, Nanos timeout) {
  net::HttpCall call{.method = "GET", .path = server.path + "/v1/models"};
  if (!api_key.empty()) call.headers.emplace_back("Authorization", "Bearer " + api_key);
  call.deadline = Deadline(std::chrono::steady_clock::now() + timeout);

  Collector answer;
  const std::unique_ptr<net::LoopThread> thread = net::start_loop_thread();
  std::unique_ptr<net::HttpClient> client;
  std::unique_ptr<net::HttpCallHandle> handle;
  run_on(thread->loop(), [&] {
    client = net::make_http_client(thread->loop(), server);
    handle = client->call(std::move(call), answer);
  });
  const Result<void> outcome = answer.wait();
  run_on(thread->loop(), [&] {
    handle.reset();
    client.reset();
  });

  const std::string remedy =
      fmt::format("--model was not given, and GET {}/v1/models did not name one", server.path);
  if (!outcome) {
    return fail(outcome.error().code,
                fmt::format("{}; is a server running there? (--url)", outcome.error().message));
  }
  ChunkParser parser;
  if (answer.status() != 200) {
    const Result<Chunk> chunk = parser.parse(answer.body(), Endpoint::kChat, false);
    return fail(
        Code::kUnavailable,
        fmt::format("{}: status {}{}{}", remedy, answer.status(), chunk && chunk->error ? ", " : "",
                    chunk && chunk->error ? *chunk->error : std::string()));
  }
  Result<std::string> model = parser.parse_first_model(answer.body());
  if (!model) return fail(Code::kNotFound, fmt::format("{}: {}", remedy, model.error().message));
  return model;
}

}  // namespace penstock::cli::load
