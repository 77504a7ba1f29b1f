#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "net/http_client.h"

namespace penstock::cli::load {

/// A server as users name it, with or without /v1 at its end. Fails with kInvalidArgument.
Result<net::Url> read_server_url(const std::string& text);

struct Fetched {
  int status = 0;
  std::string body;  // at most kFetchedBytesMax of it
};
inline constexpr std::size_t kFetchedBytesMax = std::size_t{8} << 20;

/// Reads small pages from one server, one after the other, over a kept connection. Blocks. One
/// thread.
class Fetcher final {
 public:
  /// An empty key is not sent.
  Fetcher(net::Url server, std::string api_key);
  ~Fetcher();
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  /// GET of `path` under the server's own. Fails when no answer came within `timeout`; the message
  /// says what is wrong.
  Result<Fetched> get(const std::string& path, Nanos timeout);

 private:
  const net::Url server_;
  const std::string api_key_;
  const std::unique_ptr<net::LoopThread> thread_;
  std::unique_ptr<net::HttpClient> client_;
};

}  // namespace penstock::cli::load
