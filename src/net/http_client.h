#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "net/loop.h"

namespace penstock::net {

/// scheme://host[:port]/path split up; only http is supported (kInvalidArgument says so). The path
/// keeps its query and loses its fragment; an IPv6 host is written in brackets and stored without.
struct Url {
  std::string host;
  std::uint16_t port = 80;
  std::string path = "/";
};
Result<Url> parse_url(std::string_view url);

struct HttpCall {
  std::string method = "POST";
  std::string path = "/";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  Deadline deadline;
};

/// Hears how one call goes. Loop thread only; never from inside HttpClient::call(), and not after
/// on_done(). May destroy the call's handle, or the client, from inside any of these.
class HttpCallListener {
 public:
  virtual ~HttpCallListener() = default;
  virtual void on_headers(int status) = 0;           // the final answer's; 1xx are not shown
  virtual void on_body(std::string_view bytes) = 0;  // decoded pieces as they arrive
  virtual void on_done(Result<void> outcome) = 0;    // success: the whole body was received
};

/// Cancels the call (closes its connection) when destroyed before on_done().
class HttpCallHandle {
 public:
  virtual ~HttpCallHandle() = default;
};

/// Keep-alive HTTP/1.1 client to one server, on one loop. TCP_NODELAY; idle connections reused,
/// a call on a reused connection that dies before any answer byte is sent once more on a new one.
/// Failures: kDeadlineExceeded when the call's deadline passed; kUnavailable when the server cannot
/// be reached, closes early or sends what is not HTTP/1.x (the message says which).
/// Thread: made on any; used and destroyed on the loop's, before the loop. Calls still open when
/// the client is destroyed end as if their handles had been destroyed.
class HttpClient {
 public:
  virtual ~HttpClient() = default;
  [[nodiscard]] virtual std::unique_ptr<HttpCallHandle> call(HttpCall call,
                                                             HttpCallListener& listener) = 0;
};

std::unique_ptr<HttpClient> make_http_client(Loop& loop, Url server,
                                             std::size_t idle_connections_max = 1024);

/// A loop of its own on a thread of its own, for programs that are clients only.
class LoopThread {
 public:
  virtual ~LoopThread() = default;  // stops and joins
  [[nodiscard]] virtual Loop& loop() noexcept = 0;
};
std::unique_ptr<LoopThread> start_loop_thread();

}  // namespace penstock::net
