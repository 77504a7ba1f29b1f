#pragma once

#include <array>
#include <atomic>
#include <boost/intrusive_ptr.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "net/http_server.h"
#include "net/internal/asio_loop.h"

namespace penstock::net {

class ServerConnection;

/// What the loops of one server share. Outlives them.
struct ServerShared {
  HttpServerOptions options;
  HttpHandler& handler;
  std::atomic<std::uint64_t> connections_open{0};
  std::atomic<std::uint64_t> bodies_bytes{0};  // of large request bodies
  std::atomic<bool> draining{false};
};

/// A total with one writer, the loop's thread, and any readers.
class LoopCounter final {
 public:
  void add(std::uint64_t n = 1) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  void raise_to(std::uint64_t n) noexcept {
    if (n > value_.load(std::memory_order_relaxed)) value_.store(n, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t value() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct ServerCounters {
  LoopCounter accepted;
  LoopCounter refused;
  LoopCounter requests;
  std::array<LoopCounter, kRejections.size()> rejected;
  LoopCounter clients_gone;
  LoopCounter exchanges_ended;
  LoopCounter lag_ns_max;
};

/// One loop of a server: its listening socket, its connections and their deadlines. Everything but
/// counters() and loop().post() belongs to the loop's thread.
///
/// A tick every kTick drops in on the connections whose deadline has passed. Deadlines lie densely
/// in one array beside the connections, so that a tick over many of them reads little memory. They
/// are told in loop time, which a tick advances by kTick however late it comes: what the loop or
/// the machine stood still is not held against the clients.
class ServerLoop final {
 public:
  static constexpr Nanos kTick = std::chrono::milliseconds(250);
  static constexpr std::size_t kRefusedMax = 256;  // connections being told 503 at once, a loop

  ServerLoop(std::size_t index, ServerShared& shared);
  ~ServerLoop();
  ServerLoop(const ServerLoop&) = delete;
  ServerLoop& operator=(const ServerLoop&) = delete;

  [[nodiscard]] AsioLoop& loop() noexcept { return loop_; }
  [[nodiscard]] const ServerCounters& counters() const noexcept { return counters_; }

  /// Takes over a bound, listening socket. Before run().
  void listen_on(TcpAcceptor acceptor);
  void run();    // on the thread that becomes the loop's; returns after stop()
  void drain();  // closes what is idle
  void stop();   // ends every exchange and connection, then the loop

  // For connections.
  [[nodiscard]] const HttpServerOptions& options() const noexcept { return shared_.options; }
  [[nodiscard]] HttpHandler& handler() noexcept { return shared_.handler; }
  [[nodiscard]] ServerCounters& counters() noexcept { return counters_; }
  [[nodiscard]] bool draining() const noexcept {
    return shared_.draining.load(std::memory_order_relaxed);
  }
  /// A deadline, in loop time, that is `timeout` or up to two ticks more away. Reads no clock.
  [[nodiscard]] TimePoint deadline_in(Nanos timeout) const noexcept;
  void set_deadline(std::size_t slot, TimePoint deadline) noexcept { deadlines_[slot] = deadline; }
  /// Charges the server's budget for bodies with `size_bytes` more, if it has them.
  [[nodiscard]] bool charge_body(std::size_t size_bytes) noexcept;
  void release_body(std::size_t size_bytes) noexcept;
  /// Forgets a closed connection; the last one's slot changes to fill the gap.
  void remove(ServerConnection& connection, bool refused);
  /// For a request whose client gave it no name. No two are alike, of other loops' and runs'
  /// either.
  [[nodiscard]] std::string next_request_id();
  [[nodiscard]] std::string& scratch() noexcept { return scratch_; }
  [[nodiscard]] std::array<char, 65536>& discarded() noexcept { return discarded_; }

 private:
  using ConnectionPtr = boost::intrusive_ptr<ServerConnection>;

  void accept_next();
  void on_accepted(TcpSocket socket);
  void add(ConnectionPtr connection);
  void schedule_tick();
  void tick();

  ServerShared& shared_;
  AsioLoop loop_;
  ServerCounters counters_;
  std::unique_ptr<TcpAcceptor> acceptor_;
  bool accept_paused_ = false;  // out of descriptors: tried again at the next tick

  // Slot i: a connection and when it wants a visit. Same size, same order.
  std::vector<TimePoint> deadlines_;
  std::vector<ConnectionPtr> connections_;
  std::size_t refused_open_ = 0;
  std::uint64_t next_id_;  // from anywhere on

  TimePoint now_{};     // loop time: the ticks so far
  TimePoint tick_due_;  // by the clock
  std::unique_ptr<Loop::Timer> tick_timer_;

  std::string scratch_;                  // where connections compose what they send at once
  std::array<char, 65536> discarded_{};  // where bytes nobody will read are received
};

}  // namespace penstock::net
