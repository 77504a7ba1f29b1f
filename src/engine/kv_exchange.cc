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
  for (std::jthread& opener : openers_) opener.request_stop();
  openers_.clear();
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
  if (owner.peer != nullptr && owner.peer->alive()) {
    if (owner.compatibility == compatibility) return begin(*owner.peer);
    return fail(Code::kUnprocessable, "that worker's KV is of another model, build or setting");
  }
  if (clock_.now() < owner.not_before) return std::unexpected(owner.why);
  want_way(owner);
  return Way::kOpening;
}

/// Under the lock.
void KvExchange::want_way(Away& owner) {
  if (owner.peer != nullptr) unused_.push_back(std::move(owner.peer));
  owner.opening = true;
  owner.since = clock_.now();
  const auto waiting = static_cast<std::size_t>(std::ranges::count_if(away_, waits));
  if (openers_.size() < std::min(busy_openers_ + waiting, kOpenersMax)) {
    openers_.emplace_back([this](const std::stop_token& stop) { open_ways(stop); });
  }
  changed_.notify_all();
}

/// Under the lock. The one that is asked for becomes the first. While there is no way to it, it is
/// where the ticket says, and what is asked of it.
KvExchange::Away& KvExchange::away(const KvTicket& ticket, std::string_view compatibility) {
  const auto known = std::ranges::find(away_, ticket.source, &Away::source);
  if (known != away_.end()) {
    away_.splice(away_.begin(), away_, known);
  } else {
    away_.push_front({.source = ticket.source});
    if (away_.size() > kAwayMax) {
      if (away_.back().peer != nullptr) unused_.push_back(std::move(away_.back().peer));
      away_.pop_back();
    }
  }
  Away& owner = away_.front();
  owner.used = clock_.now();
  if (owner.peer != nullptr || owner.opening) return owner;
  if (owner.at != ticket.at || owner.compatibility != compatibility) {
    owner.at = ticket.at;
    owner.compatibility = compatibility;
    owner.not_before = TimePoint::min();
  }
  return owner;
}

void KvExchange::wait_for_ways(Nanos at_most) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, at_most);
}

/// The openers' threads: connecting waits for the other side, and so does a peer's end. Whoever
/// does not answer holds up one of them.
void KvExchange::open_ways(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    changed_.wait_for(lock, stop, kLook,
                      [&] { return !unused_.empty() || longest_waiting() != nullptr; });
    if (stop.stop_requested()) return;
    let_go();
    if (std::vector<std::unique_ptr<transfer::Peer>> unused = std::exchange(unused_, {});
        !unused.empty()) {
      ++busy_openers_;
      lock.unlock();
      unused.clear();
      lock.lock();
      --busy_openers_;
    }
    if (Away* owner = longest_waiting()) open_way(*owner, lock);
  }
}

/// Under the lock: whose owner died, and who has not been asked for long.
void KvExchange::let_go() {
  for (Away& owner : away_) {
    if (owner.peer != nullptr && !owner.peer->alive()) unused_.push_back(std::move(owner.peer));
  }
  const TimePoint now = clock_.now();
  while (!away_.empty() && !away_.back().opening && now - away_.back().used >= kUnusedMax) {
    if (away_.back().peer != nullptr && away_.back().peer->busy()) {  // a long pull
      away_.back().used = now;
      away_.splice(away_.begin(), away_, std::prev(away_.end()));
      continue;
    }
    if (away_.back().peer != nullptr) unused_.push_back(std::move(away_.back().peer));
    away_.pop_back();
  }
}

/// Under the lock. Null: nobody waits whom no other opener has taken.
KvExchange::Away* KvExchange::longest_waiting() {
  Away* longest = nullptr;
  for (Away& owner : away_) {
    if (!waits(owner)) continue;
    if (longest == nullptr || owner.since < longest->since) longest = &owner;
  }
  return longest;
}

/// Under the lock, but for the time it takes. Who was let go meanwhile and asked for again may be
/// elsewhere by then, and on another opener's hands: only the attempt that is under way counts.
void KvExchange::open_way(Away& owner, std::unique_lock<std::mutex>& lock) {
  const std::uint64_t attempt = owner.attempt = ++attempts_;
  transfer::PeerAddress to = address_of(owner);
  ++busy_openers_;
  lock.unlock();
  if (!to.tcp_host.empty()) to.tcp_host = number_of(to.tcp_host);
  Result<std::unique_ptr<transfer::Peer>> opened = transfer::Peer::connect(to, copies_, clock_);
  lock.lock();
  --busy_openers_;
  const auto asked = std::ranges::find(away_, attempt, &Away::attempt);
  if (asked == away_.end()) {
    if (opened) unused_.push_back(std::move(*opened));
    return;
  }
  asked->opening = false;
  asked->attempt = 0;
  if (opened) {
    asked->peer = std::move(*opened);
  } else {
    asked->why = opened.error();
    asked->not_before = clock_.now() + kAgainAfter;
    if (trouble_.raise(clock_.now())) {  // whoever else cannot be read meanwhile
      log::warn("KV of another worker cannot be read: {}", asked->why.message);
    }
  }
  changed_.notify_all();
}

transfer::PeerAddress KvExchange::address_of(const Away& owner) const {
  transfer::PeerAddress address{.socket_path = owner.at.socket_path,
                                .tcp_host = {},
                                .secret = sharing_.secret,
                                .compatibility = owner.compatibility,
                                .epoch = owner.source};
  if (owner.at.tcp_port != 0 && !sharing_.secret.empty()) {
    address.tcp_host = owner.at.tcp_host;
    address.tcp_port = owner.at.tcp_port;
  }
  return address;
}

}  // namespace penstock::engine
