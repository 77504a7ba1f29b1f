#include "net/http_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/intrusive_ptr.hpp>
#include <charconv>
#include <thread>
#include <utility>

#include "base/check.h"
#include "net/internal/asio_loop.h"
#include "net/internal/client_core.h"

namespace penstock::net {
namespace {

class Client final : public HttpClient {
 public:
  Client(AsioLoop& loop, Url server, std::size_t idle_connections_max)
      : core_(new ClientCore(loop, std::move(server), idle_connections_max)) {}
  ~Client() override { core_->shut_down(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] std::unique_ptr<HttpCallHandle> call(HttpCall call,
                                                     HttpCallListener& listener) override {
    auto handle = std::make_unique<ClientCall>(core_, std::move(call), listener);
    handle->start();
    return handle;
  }

 private:
  boost::intrusive_ptr<ClientCore> core_;
};

class OwnLoopThread final : public LoopThread {
 public:
  OwnLoopThread() : loop_(0), thread_([this] { loop_.run(); }) {}
  ~OwnLoopThread() override {
    loop_.stop();
    thread_.join();
  }
  OwnLoopThread(const OwnLoopThread&) = delete;
  OwnLoopThread& operator=(const OwnLoopThread&) = delete;

  [[nodiscard]] Loop& loop() noexcept override { return loop_; }

 private:
  AsioLoop loop_;
  std::thread thread_;  // last: it runs loop_
};

std::unexpected<Error> bad_url(std::string_view url, std::string_view why) {
  return fail(Code::kInvalidArgument,
              fmt::format("'{}' is not a URL like http://127.0.0.1:8000/path: {}", url, why));
}

/// "[::1]:80" and "example.org:80" to host and what follows it, ":80" or nothing.
bool split_host(std::string_view authority, std::string_view& host, std::string_view& rest) {
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) return false;
    host = authority.substr(1, end - 1);
    rest = authority.substr(end + 1);
  } else {
    const auto colon = std::min(authority.find(':'), authority.size());
    host = authority.substr(0, colon);
    rest = authority.substr(colon);
  }
  return !host.empty();
}

}  // namespace

Result<Url> parse_url(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  if (url.starts_with("https://")) return bad_url(url, "only http is supported, not https");
  if (!url.starts_with(kScheme)) return bad_url(url, "it starts with http://");
  for (const char c : url) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '\x7f') {
      return bad_url(url, "spaces and control characters are written as %20 and so on");
    }
  }
  const std::string_view bare = url.substr(0, url.find('#')).substr(kScheme.size());
  const auto path_at = std::min(bare.find_first_of("/?"), bare.size());
  Url parsed;
  std::string_view host;
  std::string_view rest;
  const std::string_view authority = bare.substr(0, path_at);
  if (authority.find('@') != std::string_view::npos) return bad_url(url, "no user names in it");
  if (!split_host(authority, host, rest)) return bad_url(url, "the host is missing");
  parsed.host = host;
  if (!rest.empty()) {
    const char* const end = rest.data() + rest.size();
    const auto [stop, failure] = std::from_chars(rest.data() + 1, end, parsed.port);
    if (rest.front() != ':' || failure != std::errc() || stop != end || parsed.port == 0) {
      return bad_url(url, "the port is a number from 1 to 65535");
    }
  }
  parsed.path = bare.substr(path_at);
  if (!parsed.path.starts_with('/')) parsed.path.insert(0, "/");
  return parsed;
}

std::unique_ptr<HttpClient> make_http_client(Loop& loop, Url server,
                                             std::size_t idle_connections_max) {
  auto* const own = dynamic_cast<AsioLoop*>(&loop);
  CHECK(own != nullptr);  // sockets need a loop of this module
  return std::make_unique<Client>(*own, std::move(server), idle_connections_max);
}

std::unique_ptr<LoopThread> start_loop_thread() { return std::make_unique<OwnLoopThread>(); }

}  // namespace penstock::net
