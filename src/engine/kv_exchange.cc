#include "engine/kv_exchange.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"

namespace penstock::engine {
namespace {

constexpr Nanos kAgainAfter = std::chrono::seconds(1);  // who could not be reached
constexpr Nanos kLook =
    std::chrono::seconds(1);  // a dead worker's memory is kept while it is mapped

/// A host by its number; as it is if it has none.
std::string number_of(const std::string& host) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), nullptr, &wanted, &found) != 0) return host;
  std::array<char, NI_MAXHOST> number{};
  const int failed = getnameinfo(found->ai_addr, found->ai_addrlen, number.data(), number.size(),
                                 nullptr, 0, NI_NUMERICHOST);
  freeaddrinfo(found);
  return failed == 0 ? std::string(number.data()) : host;
}

}  // namespace

KvExchange::KvExchange(const Clock& clock, KvSharing sharing)
    : clock_(clock), sharing_(std::move(sharing)) {}

KvExchange::~KvExchange() {
  opener_.request_stop();
  if (opener_.joinable()) opener_.join();
}

KvTicket KvExchange::offer(transfer::Arena& arena, std::string_view compatibility) {
  KvTicket ticket{.source = arena.table().epoch(), .grant = {}, .blocks = {}, .at = {}};
  Source source{std::string(compatibility), transfer::Peer::local(arena, copies_, clock_), {}, {}};
  open_outside(source, arena, ticket.at);
  const std::lock_guard lock(mutex_);
  sources_[ticket.source] = std::move(source);
  return ticket;
}

void KvExchange::open_outside(Source& source, transfer::Arena& arena, KvAddress& at) const {
  if (!sharing_.socket_folder.empty()) {
    std::string path =
        fmt::format("{}/kv-{:016x}.sock", sharing_.socket_folder, arena.table().epoch());
    auto host = transfer::HostServer::open(arena, path, source.compatibility);
    if (host) {
      source.host = std::move(*host);
      at.socket_path = std::move(path);
    } else {
      log::warn("workers of other processes cannot map this one's KV: {}", host.error().message);
    }
  }
  if (sharing_.tcp_listen.empty()) return;
  auto tcp = transfer::TcpServer::open(arena, {.host = number_of(sharing_.tcp_listen),
                                               .secret = sharing_.secret,
                                               .compatibility = source.compatibility});
  if (tcp) {
    source.tcp = std::move(*tcp);
    at.tcp_host = sharing_.tcp_advertise;
    at.tcp_port = source.tcp->port();
  } else {
    log::warn("workers of other hosts cannot read this one's KV: {}", tcp.error().message);
  }
}

void KvExchange::withdraw(std::uint64_t source) {
  Source ends;  // its end waits for pulls under way: not under the lock
  const std::lock_guard lock(mutex_);
  const auto found = sources_.find(source);
  if (found == sources_.end()) return;
  ends = std::move(found->second);
  sources_.erase(found);
}

Result<KvExchange::Way> KvExchange::pull(const KvTicket& ticket, std::string_view compatibility,
                                         transfer::Transfer& transfer, const transfer::Pull& pull,
                                         transfer::Arena& to) {
  const auto begin = [&](transfer::Peer& peer) -> Result<Way> {
    Result<void> begun = peer.pull(transfer, pull, to);
    if (!begun) return std::unexpected(begun.error());
    return Way::kOpen;
  };
  const std::lock_guard lock(mutex_);
  if (const auto found = sources_.find(ticket.source); found != sources_.end()) {
    if (found->second.compatibility == compatibility) return begin(*found->second.peer);
    return fail(Code::kUnprocessable, "that worker's KV is of another model, build or setting");
  }
  if (!sharing_.outside() || ticket.at.nowhere()) {
    return fail(Code::kUnavailable, "that worker is gone");
  }
  Away& owner = away(ticket, compatibility);
  if (owner.opening) return Way::kOpening;
  if (owner.peer != nullptr && owner.peer->alive()) return begin(*owner.peer);
  if (clock_.now() < owner.not_before) return std::unexpected(owner.why);
  if (owner.peer != nullptr) unused_.push_back(std::move(owner.peer));
  owner.opening = true;
  if (!opener_.joinable()) {
    opener_ = std::jthread([this](const std::stop_token& stop) { open_ways(stop); });
  }
  changed_.notify_all();
  return Way::kOpening;
}

/// Under the lock. The one that is asked for becomes the first.
KvExchange::Away& KvExchange::away(const KvTicket& ticket, std::string_view compatibility) {
  const auto known = std::ranges::find(away_, ticket.source, &Away::source);
  if (known != away_.end()) {
    away_.splice(away_.begin(), away_, known);
    return away_.front();
  }
  away_.push_front(
      {.source = ticket.source, .at = ticket.at, .compatibility = std::string(compatibility)});
  if (away_.size() > kAwayMax) {
    if (away_.back().peer != nullptr) unused_.push_back(std::move(away_.back().peer));
    away_.pop_back();
  }
  return away_.front();
}

void KvExchange::wait_for_ways(Nanos at_most) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, at_most);
}

/// The opener's thread: connecting waits for the other side, and so does a peer's end.
void KvExchange::open_ways(const std::stop_token& stop) {
  const auto opening = [this] { return std::ranges::find(away_, true, &Away::opening); };
  std::string last_trouble;  // told once in a row
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    changed_.wait_for(lock, stop, kLook,
                      [&] { return !unused_.empty() || opening() != away_.end(); });
    for (Away& owner : away_) {
      if (owner.peer != nullptr && !owner.peer->alive()) unused_.push_back(std::move(owner.peer));
    }
    std::vector<std::unique_ptr<transfer::Peer>> unused = std::exchange(unused_, {});
    const auto next = opening();
    Away wanted;
    if (next != away_.end()) {
      wanted = {.source = next->source, .at = next->at, .compatibility = next->compatibility};
    }
    lock.unlock();
    unused.clear();
    Result<std::unique_ptr<transfer::Peer>> opened = fail(Code::kUnavailable, "");
    if (wanted.source != 0) opened = open_way(wanted);
    lock.lock();
    const auto asked = std::ranges::find(away_, wanted.source, &Away::source);
    if (asked == away_.end()) continue;  // it was let go meanwhile
    asked->opening = false;
    if (opened) {
      asked->peer = std::move(*opened);
    } else {
      asked->why = opened.error();
      asked->not_before = clock_.now() + kAgainAfter;
      if (asked->why.message != last_trouble) {
        log::warn("KV of another worker cannot be read: {}", asked->why.message);
      }
      last_trouble = asked->why.message;
    }
    changed_.notify_all();
  }
}

/// By all ways that lead there. One that does not (the worker is of another host, a port is closed)
/// is left out.
Result<std::unique_ptr<transfer::Peer>> KvExchange::open_way(const Away& to) {
  transfer::PeerAddress host{.socket_path = to.at.socket_path,
                             .tcp_host = {},
                             .secret = sharing_.secret,
                             .compatibility = to.compatibility};
  transfer::PeerAddress tcp = host;
  tcp.socket_path.clear();
  if (to.at.tcp_port != 0 && !sharing_.secret.empty()) {
    tcp.tcp_host = number_of(to.at.tcp_host);
    tcp.tcp_port = to.at.tcp_port;
  }
  std::vector<transfer::PeerAddress> ways;
  if (!host.socket_path.empty()) ways.push_back(host);
  if (!tcp.tcp_host.empty()) ways.push_back(tcp);
  if (ways.size() == 2) {
    tcp.socket_path = host.socket_path;
    ways.insert(ways.begin(), tcp);
  }
  Result<std::unique_ptr<transfer::Peer>> peer =
      fail(Code::kUnavailable, "the worker does not say where");
  for (const transfer::PeerAddress& way : ways) {
    peer = transfer::Peer::connect(way, copies_, clock_);
    if (!peer) continue;
    if ((*peer)->epoch() == to.source) return peer;
    peer = fail(Code::kUnavailable, "another worker is there by now");
  }
  return peer;
}

}  // namespace penstock::engine
