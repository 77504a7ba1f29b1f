#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/internal/tcp_wire.h"
#include "transfer/memory.h"

namespace penstock::transfer {

/// How long a blocking call on a connection waits at most, and who uses one goes without asking
/// whether to go on.
inline constexpr auto kTcpTick = std::chrono::milliseconds(20);

/// Counts ticks, whether bytes move meanwhile or not. For one thread.
class Ticks final {
 public:
  /// Whether one has passed since it last said so.
  [[nodiscard]] bool passed() noexcept {
    const TimePoint now = std::chrono::steady_clock::now();
    if (now < next_) return false;
    next_ = now + kTcpTick;
    return true;
  }

 private:
  TimePoint next_ = std::chrono::steady_clock::now() + kTcpTick;
};

Result<Fd> listen_tcp(const std::string& host, std::uint16_t port);
/// Asks `stop()` every tick. kUnavailable: nobody listens there; kDeadlineExceeded: stopped, or no
/// answer; kOverloaded: anything else, such as no descriptor, no port or no way there now.
Result<Fd> connect_tcp(const std::string& host, std::uint16_t port,
                       const std::function<bool()>& stop);
/// Another host that is gone without a word (power, a cable) breaks the connection when it has not
/// been heard of for so long, whether it owes an answer or nothing is said at all.
inline constexpr auto kTcpSilenceMax = std::chrono::seconds(30);
inline constexpr auto kTcpProbeAfter = std::chrono::seconds(10);  // of saying nothing,
inline constexpr auto kTcpProbeEvery = std::chrono::seconds(5);   // and then

/// Sends small messages at once, wakes up every kTcpTick, and keeps to kTcpSilenceMax. Of a
/// connection within this host little waits to be received, so that it is still in a cache then.
void tune_tcp(int socket);

/// Moves all pieces; asks `stop()` every tick. False: stopped, or the other side is gone.
template <class Stop>
bool send_all(int socket, wire::Pieces& pieces, Stop stop);
template <class Stop>
bool receive_all(int socket, wire::Pieces& pieces, Stop stop);

/// One call of each: bytes moved, 0 for a tick in vain, -1 for a broken connection.
std::ptrdiff_t send_some(int socket, wire::Pieces& pieces);
std::ptrdiff_t receive_some(int socket, wire::Pieces& pieces);

template <class Stop>
bool send_all(int socket, wire::Pieces& pieces, Stop stop) {
  Ticks ticks;
  while (!pieces.left().empty()) {
    if ((ticks.passed() && stop()) || send_some(socket, pieces) < 0) return false;
  }
  return true;
}

template <class Stop>
bool receive_all(int socket, wire::Pieces& pieces, Stop stop) {
  Ticks ticks;
  while (!pieces.left().empty()) {
    if ((ticks.passed() && stop()) || receive_some(socket, pieces) < 0) return false;
  }
  return true;
}

template <class T, class Stop>
bool send_object(int socket, const T& object, Stop stop) {
  wire::Pieces pieces;
  pieces.add(&object, sizeof object);
  return send_all(socket, pieces, stop);
}
template <class T, class Stop>
bool receive_object(int socket, T& object, Stop stop) {
  wire::Pieces pieces;
  pieces.add(&object, sizeof object);
  return receive_all(socket, pieces, stop);
}

}  // namespace penstock::transfer
