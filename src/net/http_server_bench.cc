#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/check.h"
#include "net/http_server.h"

// CPU time of the serving thread alone, per exchange and per flush, beside the floor: a bare epoll
// loop that receives and sends the same bytes and understands none of them. Clients run on another
// thread, whose time does not count but whose waking up does: the kernel delivers on loopback, and
// wakes the receiver, inside the sender's system call.
//
// Re-run: net_bench --benchmark_counters_tabular=true

namespace penstock::net {
namespace {

constexpr std::size_t kPieceBytes = 2730;  // three flushes of it make about 8 kB
constexpr int kPieces = 3;
constexpr std::string_view kEnd = "\r\n0\r\n\r\n";

double thread_cpu_us() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

std::string make_request() {
  const std::string body(700, 'b');
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
         "Content-Type: application/json\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
         "Accept: text/event-stream\r\nUser-Agent: bench/1.0\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

int connect_to(std::uint16_t port) {
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(::connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return descriptor;
}

/// Client connections, driven by the calling thread.
class Clients final {
 public:
  Clients(std::uint16_t port, std::size_t count) : epoll_(::epoll_create1(0)) {
    for (std::size_t i = 0; i < count; ++i) {
      const int descriptor = connect_to(port);
      epoll_event event{.events = EPOLLIN, .data = {.fd = descriptor}};
      ::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event);
      descriptors_.push_back(descriptor);
    }
  }
  ~Clients() {
    for (const int descriptor : descriptors_) ::close(descriptor);
    ::close(epoll_);
  }
  Clients(const Clients&) = delete;
  Clients& operator=(const Clients&) = delete;

  void ask_all() {
    for (const int descriptor : descriptors_) ask(descriptor);
  }
  void ask(int descriptor) {
    CHECK(::send(descriptor, request_.data(), request_.size(), 0) ==
          static_cast<ssize_t>(request_.size()));
  }

  /// Receives until `on_bytes` has said true `times` times.
  void receive(std::size_t times, const std::function<bool(int, std::string_view)>& on_bytes) {
    epoll_event events[64];
    while (times > 0) {
      const int ready = ::epoll_wait(epoll_, events, 64, -1);
      for (int i = 0; i < ready; ++i) {
        const auto got = ::recv(events[i].data.fd, buffer_.data(), buffer_.size(), 0);
        CHECK(got > 0);
        const std::string_view bytes(buffer_.data(), static_cast<std::size_t>(got));
        if (on_bytes(events[i].data.fd, bytes)) --times;
      }
    }
  }

 private:
  const std::string request_ = make_request();
  int epoll_;
  std::vector<int> descriptors_;
  std::string buffer_ = std::string(65536, '\0');
};

/// The floor: answers each received request with the same bytes in as many sends.
class BareServer final {
 public:
  BareServer() : listener_(::socket(AF_INET, SOCK_STREAM, 0)), epoll_(::epoll_create1(0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0);
    CHECK(::listen(listener_, 4096) == 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~BareServer() {
    if (thread_.joinable()) thread_.join();
    ::close(listener_);
    ::close(epoll_);
  }
  BareServer(const BareServer&) = delete;
  BareServer& operator=(const BareServer&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }

  /// Serves `count` connections until all have closed.
  void serve(std::size_t count) {
    thread_ = std::thread([this, count] { run(count); });
  }
  [[nodiscard]] double cpu_us() const { return cpu_us_; }

 private:
  void run(std::size_t open) {
    for (std::size_t i = 0; i < open; ++i) {
      const int descriptor = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK);
      const int on = 1;
      ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.fd = descriptor}};
      ::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event);
    }
    std::string piece(kPieceBytes, 'p');
    piece += "\r\n";
    const std::string last = std::string(kPieceBytes, 'p') + std::string(kEnd);
    char buffer[4096];
    epoll_event events[64];
    while (open > 0) {
      const int ready = ::epoll_wait(epoll_, events, 64, -1);
      for (int i = 0; i < ready; ++i) {
        const int descriptor = events[i].data.fd;
        if (::recv(descriptor, buffer, sizeof buffer, 0) <= 0) {
          ::close(descriptor);
          --open;
          continue;
        }
        for (int k = 1; k < kPieces; ++k) {
          ::send(descriptor, piece.data(), piece.size(), MSG_NOSIGNAL);
        }
        ::send(descriptor, last.data(), last.size(), MSG_NOSIGNAL);
      }
      cpu_us_ = thread_cpu_us();
    }
  }

  int listener_;
  int epoll_;
  std::uint16_t port_ = 0;
  std::atomic<double> cpu_us_ = 0;
  std::thread thread_;
};

class StreamingHandler final : public HttpHandler {
 public:
  void handle(Exchange& exchange) override {
    exchange.start_stream("text/event-stream");
    for (int i = 1; i < kPieces; ++i) {
      exchange.write(piece_);
      exchange.flush();
    }
    exchange.write(piece_);
    exchange.finish();
  }

 private:
  const std::string piece_ = std::string(kPieceBytes, 'p');
};

/// Leaves each stream open.
class OpenHandler final : public HttpHandler {
 public:
  struct Quiet final : Transaction {
    void on_client_gone() override {}
  };
  void handle(Exchange& exchange) override {
    exchange.own(std::make_unique<Quiet>());
    exchange.start_stream("text/event-stream");
    exchange.flush();
    streams.push_back(&exchange);
  }
  std::vector<Exchange*> streams;  // loop thread
};

std::unique_ptr<HttpServer> start(HttpHandler& handler) {
  HttpServerOptions options;
  options.port = 0;
  options.loops = 1;
  return std::move(start_http_server(options, handler).value());
}

/// Runs `task` on the server's thread and waits; says that thread's CPU time at its end.
double on_loop(HttpServer& server, const std::function<void()>& task) {
  std::promise<double> done;
  server.loop(0).post([&] {
    task();
    done.set_value(thread_cpu_us());
  });
  return done.get_future().get();
}

bool ends_answer(std::string_view bytes) { return bytes.ends_with("0\r\n\r\n"); }

void exchange_in_rounds(benchmark::State& state, Clients& clients, std::size_t connections) {
  for (auto _ : state) {
    clients.ask_all();
    std::size_t asked = connections;
    constexpr std::size_t kExchanges = 2000;
    clients.receive(kExchanges, [&](int descriptor, std::string_view bytes) {
      const bool ended = ends_answer(bytes);
      if (ended && asked < kExchanges) {
        ++asked;
        clients.ask(descriptor);
      }
      return ended;
    });
  }
}

void BM_Exchange(benchmark::State& state) {
  const auto connections = static_cast<std::size_t>(state.range(0));
  StreamingHandler handler;
  const auto server = start(handler);
  Clients clients(server->port(), connections);
  const double before_us = on_loop(*server, [] {});
  exchange_in_rounds(state, clients, connections);
  const double us = on_loop(*server, [] {}) - before_us;
  state.counters["server_us"] = us / static_cast<double>(server->stats().requests);
}
BENCHMARK(BM_Exchange)->Arg(1)->Arg(16)->Arg(64)->UseRealTime()->Unit(benchmark::kMillisecond);

void BM_ExchangeFloor(benchmark::State& state) {
  const auto connections = static_cast<std::size_t>(state.range(0));
  BareServer server;
  server.serve(connections);
  double exchanges = 0;
  {
    Clients clients(server.port(), connections);
    exchange_in_rounds(state, clients, connections);
    exchanges = static_cast<double>(state.iterations()) * 2000;
  }
  state.counters["server_us"] = server.cpu_us() / exchanges;
}
BENCHMARK(BM_ExchangeFloor)->Arg(1)->Arg(16)->Arg(64)->UseRealTime()->Unit(benchmark::kMillisecond);

/// Flushes 250 bytes on every open stream, then waits until the clients have them.
void BM_Flush(benchmark::State& state) {
  const auto connections = static_cast<std::size_t>(state.range(0));
  OpenHandler handler;
  const auto server = start(handler);
  Clients clients(server->port(), connections);
  clients.ask_all();
  clients.receive(connections,
                  [](int, std::string_view bytes) { return bytes.ends_with("\r\n\r\n"); });
  const std::string event = "data: " + std::string(242, 'e') + "\n\n";
  double us = 0;
  for (auto _ : state) {
    on_loop(*server, [&] {
      const double before_us = thread_cpu_us();
      for (Exchange* stream : handler.streams) {
        stream->write(event);
        stream->flush();
      }
      us += thread_cpu_us() - before_us;
    });
    clients.receive(connections, [](int, std::string_view) { return true; });
  }
  state.counters["server_us"] =
      us / static_cast<double>(state.iterations()) / static_cast<double>(connections);
}
BENCHMARK(BM_Flush)->Arg(1)->Arg(100)->UseRealTime()->Unit(benchmark::kMicrosecond);

void BM_FlushFloor(benchmark::State& state) {
  const auto connections = static_cast<std::size_t>(state.range(0));
  OpenHandler handler;
  const auto server = start(handler);
  std::vector<int> senders;
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  CHECK(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  CHECK(::listen(listener, 4096) == 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  Clients clients(ntohs(address.sin_port), connections);
  for (std::size_t i = 0; i < connections; ++i) {
    senders.push_back(::accept(listener, nullptr, nullptr));
    const int on = 1;
    ::setsockopt(senders.back(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  const std::string event(256, 'e');
  double us = 0;
  for (auto _ : state) {
    on_loop(*server, [&] {
      const double before_us = thread_cpu_us();
      for (const int sender : senders) ::send(sender, event.data(), event.size(), MSG_NOSIGNAL);
      us += thread_cpu_us() - before_us;
    });
    clients.receive(connections, [](int, std::string_view) { return true; });
  }
  state.counters["server_us"] =
      us / static_cast<double>(state.iterations()) / static_cast<double>(connections);
  for (const int sender : senders) ::close(sender);
  ::close(listener);
}
BENCHMARK(BM_FlushFloor)->Arg(1)->Arg(100)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace penstock::net
