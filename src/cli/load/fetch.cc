#include "cli/load/fetch.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include "cli/load/run_on.h"

namespace penstock::cli::load {
namespace {

/// Collects one small answer.
class Collector final : public net::HttpCallListener {
 public:
  void on_headers(int status) override { page_.status = status; }
  void on_body(std::string_view bytes) override {
    page_.body.append(
        bytes.substr(0, kFetchedBytesMax - std::min(kFetchedBytesMax, page_.body.size())));
  }
  void on_done(Result<void> outcome) override { outcome_.set_value(std::move(outcome)); }

  Result<Fetched> wait() {
    const Result<void> outcome = outcome_.get_future().get();
    if (!outcome) return std::unexpected(outcome.error());
    return std::move(page_);
  }

 private:
  Fetched page_;
  std::promise<Result<void>> outcome_;
};

}  // namespace

Result<net::Url> read_server_url(const std::string& text) {
  Result<net::Url> url = net::parse_url(text);
  if (!url) return std::unexpected(url.error());
  if (url->path.find('?') != std::string::npos) {
    return fail(Code::kInvalidArgument, "--url: a query ('?...') has no place here");
  }
  while (url->path.ends_with('/')) url->path.pop_back();
  if (url->path.ends_with("/v1")) url->path.resize(url->path.size() - 3);
  return url;
}

Fetcher::Fetcher(net::Url server, std::string api_key)
    : server_(std::move(server)), api_key_(std::move(api_key)), thread_(net::start_loop_thread()) {
  run_on(thread_->loop(), [&] { client_ = net::make_http_client(thread_->loop(), server_); });
}

Fetcher::~Fetcher() {
  run_on(thread_->loop(), [&] { client_.reset(); });
}

Result<Fetched> Fetcher::get(const std::string& path, Nanos timeout) {
  net::HttpCall call{.method = "GET", .path = server_.path + path};
  if (!api_key_.empty()) call.headers.emplace_back("Authorization", "Bearer " + api_key_);
  call.deadline = Deadline(std::chrono::steady_clock::now() + timeout);
  Collector answer;
  std::unique_ptr<net::HttpCallHandle> handle;
  run_on(thread_->loop(), [&] { handle = client_->call(std::move(call), answer); });
  Result<Fetched> page = answer.wait();
  run_on(thread_->loop(), [&] { handle.reset(); });
  return page;
}

}  // namespace penstock::cli::load
