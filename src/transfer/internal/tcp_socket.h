#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "transfer/internal/tcp_wire.h"
#include "transfer/memory.h"

namespace penstock::transfer {

/// How long a blocking call on a connection may sleep before it asks whether to go on.
inline constexpr auto kTcpTick = std::chrono::milliseconds(20);

Result<Fd> listen_tcp(const std::string& host, std::uint16_t port);
/// kUnavailable: nobody listens there; kDeadlineExceeded: no answer.
Result<Fd> connect_tcp(const std::string& host, std::uint16_t port,
                       std::chrono::milliseconds timeout);
/// Sends small messages at once, and wakes up every kTcpTick. Of a connection within this host
/// little waits to be received, so that it is still in a cache then.
void tune_tcp(int socket);

/// Moves all pieces; asks `stop()` whenever it has waited a tick in vain. False: stopped, or the
/// other side is gone.
template <class Stop>
bool send_all(int socket, wire::Pieces& pieces, Stop stop);
template <class Stop>
bool receive_all(int socket, wire::Pieces& pieces, Stop stop);

/// One call of each: bytes moved, 0 for a tick in vain, -1 for a broken connection.
std::ptrdiff_t send_some(int socket, wire::Pieces& pieces);
std::ptrdiff_t receive_some(int socket, wire::Pieces& pieces, std::size_t bytes_max = SIZE_MAX);

template <class Stop>
bool send_all(int socket, wire::Pieces& pieces, Stop stop) {
  while (!pieces.left().empty()) {
    const std::ptrdiff_t moved = send_some(socket, pieces);
    if (moved < 0 || (moved == 0 && stop())) return false;
  }
  return true;
}

template <class Stop>
bool receive_all(int socket, wire::Pieces& pieces, Stop stop) {
  while (!pieces.left().empty()) {
    const std::ptrdiff_t moved = receive_some(socket, pieces);
    if (moved < 0 || (moved == 0 && stop())) return false;
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
