#include "net/internal/server_loop.h"

#include <fmt/format.h>

#include <chrono>
#include <random>
#include <utility>

#include "net/internal/server_connection.h"

namespace penstock::net {

ServerLoop::ServerLoop(std::size_t index, ServerShared& shared)
    : shared_(shared),
      loop_(index),
      next_id_(std::uint64_t{std::random_device{}()} << 32 | std::random_device{}()) {}

ServerLoop::~ServerLoop() = default;

void ServerLoop::listen_on(TcpAcceptor acceptor) {
  acceptor_ = std::make_unique<TcpAcceptor>(std::move(acceptor));
}

void ServerLoop::run() {
  loop_.post([this] {
    accept_next();
    schedule_tick();
  });
  loop_.run();
}

void ServerLoop::drain() {
  for (std::size_t i = connections_.size(); i-- > 0;) connections_[i]->drain();
}

void ServerLoop::stop() {
  ErrorCode ignored;
  acceptor_->close(ignored);
  tick_timer_.reset();
  while (!connections_.empty()) {
    const ConnectionPtr last = connections_.back();
    last->stop();
  }
  loop_.stop();
}

TimePoint ServerLoop::deadline_in(Nanos timeout) const noexcept {
  // The next tick may be about to come: the one added makes up for it, so nothing ends too early.
  const Nanos left = TimePoint::max() - now_ - kTick;
  return timeout < left ? now_ + timeout + kTick : TimePoint::max();
}

bool ServerLoop::charge_body(std::size_t size_bytes) noexcept {
  const auto before = shared_.bodies_bytes.fetch_add(size_bytes, std::memory_order_relaxed);
  if (before + size_bytes <= shared_.options.bodies_bytes_max) return true;
  release_body(size_bytes);
  return false;
}

void ServerLoop::release_body(std::size_t size_bytes) noexcept {
  shared_.bodies_bytes.fetch_sub(size_bytes, std::memory_order_relaxed);
}

std::string ServerLoop::next_request_id() { return fmt::format("req-{:016x}", next_id_++); }

void ServerLoop::accept_next() {
  // Not async_accept: a socket that it has accepted as the loop stops would stay open, unheard of.
  acceptor_->async_wait(TcpAcceptor::wait_read, [this](ErrorCode failure) {
    if (failure) return;  // closed
    TcpSocket socket = acceptor_->accept(failure);
    if (!failure) {
      on_accepted(std::move(socket));
    } else if (failure != asio::error::connection_aborted && failure != asio::error::would_block) {
      accept_paused_ = true;  // no descriptor or memory for it now: trying at once would spin
      return;
    }
    accept_next();
  });
}

void ServerLoop::on_accepted(TcpSocket socket) {
  ErrorCode failure;
  socket.set_option(asio::ip::tcp::no_delay(true), failure);
  socket.non_blocking(true, failure);
  if (failure) return;  // it is gone already
  counters_.accepted.add();
  auto connection = ConnectionPtr(new ServerConnection(*this, std::move(socket)));
  const auto open = shared_.connections_open.fetch_add(1, std::memory_order_relaxed);
  if (open < shared_.options.connections_max) {
    add(connection);
    connection->start();
    return;
  }
  shared_.connections_open.fetch_sub(1, std::memory_order_relaxed);
  counters_.refused.add();
  if (refused_open_ >= kRefusedMax) return;  // too many even to be told: just closed
  ++refused_open_;
  add(connection);
  connection->start_refused();
}

void ServerLoop::add(ConnectionPtr connection) {
  connection->set_slot(connections_.size());
  deadlines_.push_back(TimePoint::max());
  connections_.push_back(std::move(connection));
}

void ServerLoop::remove(ServerConnection& connection, bool refused) {
  if (refused) {
    --refused_open_;
  } else {
    shared_.connections_open.fetch_sub(1, std::memory_order_relaxed);
  }
  const std::size_t slot = connection.slot();
  connections_.back()->set_slot(slot);
  std::swap(connections_[slot], connections_.back());
  deadlines_[slot] = deadlines_.back();
  deadlines_.pop_back();
  connections_.pop_back();  // possibly the last reference
}

void ServerLoop::schedule_tick() {
  tick_due_ = std::chrono::steady_clock::now() + kTick;
  tick_timer_ = loop_.after(kTick, [this] { tick(); });
}

void ServerLoop::tick() {
  now_ += kTick;
  const Nanos lag = std::chrono::steady_clock::now() - tick_due_;
  if (lag > Nanos(0)) counters_.lag_ns_max.raise_to(lag.count());
  if (std::exchange(accept_paused_, false)) accept_next();
  // A visit may remove connections, this one or others; whoever fills a gap has either been
  // visited already or is visited a second time, which does no harm.
  for (std::size_t i = connections_.size(); i-- > 0;) {
    if (i >= connections_.size() || deadlines_[i] > now_) continue;
    const ConnectionPtr visited = connections_[i];
    visited->on_deadline(now_);
  }
  schedule_tick();
}

}  // namespace penstock::net
