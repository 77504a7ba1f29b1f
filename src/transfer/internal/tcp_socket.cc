#include "transfer/internal/tcp_socket.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace penstock::transfer {
namespace {

constexpr std::size_t kCallPiecesMax = 256;      // of one call; the system takes 1024
constexpr int kSendBytesWithinHost = 256 << 10;  // the system adds as much for its own

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Result<Address> parse_address(const std::string& host, std::uint16_t port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.size = sizeof *v4;
  } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.size = sizeof *v6;
  } else {
    return fail(Code::kInvalidArgument, fmt::format("'{}' is not an IP address", host));
  }
  return address;
}

void set_number(int socket, int level, int option, std::int64_t value) {
  const auto number = static_cast<int>(value);
  setsockopt(socket, level, option, &number, sizeof number);
}

void wake_every_tick(int socket) {
  const timeval tick{0, std::chrono::microseconds(kTcpTick).count()};
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    setsockopt(socket, SOL_SOCKET, option, &tick, sizeof tick);
  }
}

/// No network is between the two ends of the connection.
bool within_host(int socket) {
  std::array<Address, 2> ends;
  for (Address& end : ends) {
    end.size = sizeof end.storage;
    const auto ask = &end == ends.data() ? getsockname : getpeername;
    if (ask(socket, reinterpret_cast<sockaddr*>(&end.storage), &end.size) != 0) return false;
    // The port is at the same place for IPv4 and IPv6.
    reinterpret_cast<sockaddr_in*>(&end.storage)->sin_port = 0;
  }
  return std::memcmp(&ends[0].storage, &ends[1].storage, sizeof ends[0].storage) == 0;
}

bool in_vain() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

Result<Fd> listen_tcp(const std::string& host, std::uint16_t port) {
  const auto address = parse_address(host, port);
  if (!address) return std::unexpected(address.error());
  Fd fd(socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int one = 1;
  if (!fd.valid() || setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      bind(fd.get(), address->get(), address->size) != 0 || listen(fd.get(), 64) != 0) {
    return fail(Code::kUnavailable,
                fmt::format("listening at {}:{}: {}", host, port, errno_text(errno)));
  }
  return fd;
}

Result<Fd> connect_tcp(const std::string& host, std::uint16_t port,
                       const std::function<bool()>& stop) {
  const auto address = parse_address(host, port);
  if (!address) return std::unexpected(address.error());
  Fd fd(socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail(Code::kOverloaded, "no socket: " + errno_text(errno));
  wake_every_tick(fd.get());  // out of connecting, too: asked again, it waits on
  while (connect(fd.get(), address->get(), address->size) != 0) {
    const bool under_way = errno == EINPROGRESS || errno == EALREADY || errno == EINTR;
    if (under_way && !stop()) continue;
    const int why = errno;
    const std::string text = fmt::format("connecting to {}:{}: {}", host, port, errno_text(why));
    if (under_way || why == ETIMEDOUT) return fail(Code::kDeadlineExceeded, text);
    return fail(why == ECONNREFUSED ? Code::kUnavailable : Code::kOverloaded, text);
  }
  tune_tcp(fd.get());
  return fd;
}

void tune_tcp(int socket) {
  set_number(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  if (within_host(socket)) set_number(socket, SOL_SOCKET, SO_SNDBUF, kSendBytesWithinHost);
  set_number(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_number(socket, IPPROTO_TCP, TCP_KEEPIDLE, kTcpProbeAfter.count());
  set_number(socket, IPPROTO_TCP, TCP_KEEPINTVL, kTcpProbeEvery.count());
  set_number(socket, IPPROTO_TCP, TCP_USER_TIMEOUT,
             std::chrono::milliseconds(kTcpSilenceMax).count());
  wake_every_tick(socket);
}

std::ptrdiff_t send_some(int socket, wire::Pieces& pieces) {
  msghdr message{};
  message.msg_iov = pieces.left().data();
  message.msg_iovlen = std::min(pieces.left().size(), kCallPiecesMax);
  const ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  if (sent < 0) return in_vain() ? 0 : -1;
  pieces.advance(static_cast<std::size_t>(sent));
  return sent;
}

std::ptrdiff_t receive_some(int socket, wire::Pieces& pieces) {
  msghdr message{};
  message.msg_iov = pieces.left().data();
  message.msg_iovlen = std::min(pieces.left().size(), kCallPiecesMax);
  const ssize_t got = recvmsg(socket, &message, MSG_WAITALL);
  if (got == 0) return -1;
  if (got < 0) return in_vain() ? 0 : -1;
  pieces.advance(static_cast<std::size_t>(got));
  return got;
}

}  // namespace penstock::transfer
