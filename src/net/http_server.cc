#include "net/http_server.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/socket_base.hpp>
#include <thread>
#include <utility>

#include "base/check.h"
#include "net/internal/server_loop.h"

namespace penstock::net {
namespace {

using asio::ip::tcp;
using ReusePort = asio::detail::socket_option::boolean<SOL_SOCKET, SO_REUSEPORT>;

Error explain(const HttpServerOptions& options, ErrorCode failure) {
  std::string remedy;
  Code code = Code::kUnavailable;
  if (failure == asio::error::address_in_use) {
    remedy = "the port is taken; choose another or stop the program that listens there";
  } else if (failure == asio::error::access_denied) {
    remedy = "not permitted; choose a port from 1024 on";
  } else if (failure == boost::system::errc::address_not_available) {
    remedy =
        "not an address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 every address";
    code = Code::kInvalidArgument;
  } else {
    remedy = failure.message();
  }
  return {code, fmt::format("cannot listen on {}:{}: {}", options.address, options.port, remedy)};
}

ErrorCode open_and_bind(TcpAcceptor& acceptor, const tcp::endpoint& endpoint, bool shared) {
  ErrorCode failure;
  acceptor.open(endpoint.protocol(), failure);
  if (!failure) acceptor.non_blocking(true, failure);
  if (!failure) acceptor.set_option(asio::socket_base::reuse_address(true), failure);
  if (!failure && shared) acceptor.set_option(ReusePort(true), failure);
  if (!failure) acceptor.bind(endpoint, failure);
  return failure;
}

Result<tcp::endpoint> parse_endpoint(const HttpServerOptions& options) {
  ErrorCode failure;
  const std::string address = options.address == "localhost" ? "127.0.0.1" : options.address;
  const auto parsed = asio::ip::make_address(address, failure);
  if (failure) {
    return fail(Code::kInvalidArgument,
                fmt::format("'{}' is not an IP address to listen on; 127.0.0.1 is this machine "
                            "alone, 0.0.0.0 every address",
                            options.address));
  }
  return tcp::endpoint(parsed, options.port);
}

class Server final : public HttpServer {
 public:
  Server(const HttpServerOptions& options, HttpHandler& handler) : shared_{options, handler} {
    for (std::size_t i = 0; i < options.loops; ++i) {
      loops_.push_back(std::make_unique<ServerLoop>(i, shared_));
    }
  }
  ~Server() override { stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Result<void> bind(tcp::endpoint endpoint) {
    // SO_REUSEPORT would let a second server share the port without a word. Binding once without
    // it finds out whether the port is free, and picks one if none is named.
    TcpAcceptor probe(loops_.front()->loop().context());
    if (const ErrorCode failure = open_and_bind(probe, endpoint, false)) {
      return std::unexpected(explain(shared_.options, failure));
    }
    ErrorCode failure;
    endpoint = probe.local_endpoint(failure);
    if (!failure) probe.close(failure);
    for (auto& loop : loops_) {
      TcpAcceptor acceptor(loop->loop().context());
      if (!failure) failure = open_and_bind(acceptor, endpoint, true);
      if (!failure) acceptor.listen(asio::socket_base::max_listen_connections, failure);
      if (failure) return std::unexpected(explain(shared_.options, failure));
      loop->listen_on(std::move(acceptor));
    }
    port_ = endpoint.port();
    return {};
  }

  void start() {
    for (auto& loop : loops_) {
      threads_.emplace_back([&loop = *loop] { loop.run(); });
    }
  }

  [[nodiscard]] std::uint16_t port() const noexcept override { return port_; }
  [[nodiscard]] std::size_t loop_count() const noexcept override { return loops_.size(); }
  [[nodiscard]] Loop& loop(std::size_t index) noexcept override { return loops_[index]->loop(); }

  [[nodiscard]] HttpServerStats stats() const override {
    HttpServerStats sum;
    sum.connections_open = shared_.connections_open.load(std::memory_order_relaxed);
    sum.bodies_bytes = shared_.bodies_bytes.load(std::memory_order_relaxed);
    sum.bodies_bytes_max = shared_.options.bodies_bytes_max;
    for (const auto& loop : loops_) {
      const ServerCounters& one = std::as_const(*loop).counters();
      sum.connections_accepted += one.accepted.value();
      sum.connections_refused += one.refused.value();
      for (std::size_t i = 0; i < kRejections.size(); ++i) {
        sum.rejected[i] += one.rejected[i].value();
        sum.bad_requests += one.rejected[i].value();
      }
      sum.clients_gone += one.clients_gone.value();
      // Ended first: an exchange that ends between the two reads must not make the difference wrap.
      const std::uint64_t ended = one.exchanges_ended.value();
      const std::uint64_t begun = one.requests.value();
      sum.requests += begun;
      sum.exchanges_open += begun - std::min(begun, ended);
      sum.loop_lag_max = std::max(sum.loop_lag_max, Nanos(one.lag_ns_max.value()));
    }
    return sum;
  }

  void drain() override {
    shared_.draining.store(true);
    for (auto& loop : loops_) {
      loop->loop().post([&loop = *loop] { loop.drain(); });
    }
  }

  void stop() override {
    for (auto& loop : loops_) {
      CHECK(!loop->loop().in_loop_thread());  // it would wait for itself
      loop->loop().post([&loop = *loop] { loop.stop(); });
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  ServerShared shared_;
  std::uint16_t port_ = 0;
  std::vector<std::unique_ptr<ServerLoop>> loops_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::string_view HttpRequest::path() const noexcept {
  std::string_view rest = target;
  const auto scheme = rest.find("://");
  if (!rest.starts_with('/') && scheme != std::string_view::npos) {
    rest.remove_prefix(scheme + 3);
    rest.remove_prefix(std::min(rest.find_first_of("/?"), rest.size()));
  }
  return rest.substr(0, rest.find('?'));
}

std::string_view HttpRequest::query() const noexcept {
  const auto mark = target.find('?');
  return mark == std::string::npos ? std::string_view() : std::string_view(target).substr(mark + 1);
}

std::string_view HttpRequest::header(std::string_view lower_case_name) const noexcept {
  for (const auto& [name, value] : headers) {
    if (name == lower_case_name) return value;
  }
  return {};
}

Result<void> check_address(const HttpServerOptions& options) {
  HttpServerOptions any_port = options;
  any_port.port = 0;
  const auto endpoint = parse_endpoint(any_port);
  if (!endpoint) return std::unexpected(endpoint.error());
  asio::io_context context;
  TcpAcceptor probe(context);
  if (const ErrorCode failure = open_and_bind(probe, *endpoint, false)) {
    return std::unexpected(explain(any_port, failure));
  }
  return {};
}

Result<std::unique_ptr<HttpServer>> start_http_server(const HttpServerOptions& options,
                                                      HttpHandler& handler) {
  const auto endpoint = parse_endpoint(options);
  if (!endpoint) return std::unexpected(endpoint.error());
  HttpServerOptions complete = options;
  if (complete.loops == 0) complete.loops = std::max(1U, std::thread::hardware_concurrency());
  auto server = std::make_unique<Server>(complete, handler);
  if (auto bound = server->bind(*endpoint); !bound) return std::unexpected(bound.error());
  server->start();
  return server;
}

}  // namespace penstock::net
