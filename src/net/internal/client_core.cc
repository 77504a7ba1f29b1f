#include "net/internal/client_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <chrono>
#include <utility>

namespace penstock::net {
namespace {

using asio::ip::tcp;

std::string make_authority(const Url& url) {
  const bool v6 = url.host.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", url.host, v6 ? "]" : "", url.port);
}

}  // namespace

ClientCore::ClientCore(AsioLoop& loop, Url server, std::size_t idle_connections_max)
    : loop_(loop),
      server_(std::move(server)),
      authority_(make_authority(server_)),
      idle_connections_max_(idle_connections_max),
      resolver_(loop.context()) {}

ClientCore::~ClientCore() = default;

void ClientCore::start(ClientCall& call, bool may_reuse) {
  if (may_reuse && !idle_.empty()) {
    const auto connection = std::move(idle_.back());
    idle_.pop_back();
    connection->reuse(call);
    return;
  }
  const boost::intrusive_ptr connection(new ClientConnection(this));
  connection->connect(call);
}

void ClientCore::put_idle(ClientConnection& connection) {
  if (is_shut_down_ || idle_.size() >= idle_connections_max_) {
    connection.close();
  } else {
    idle_.emplace_back(&connection);
  }
}

void ClientCore::drop_idle(ClientConnection& connection) {
  std::erase_if(idle_, [&](const auto& idle) { return idle.get() == &connection; });
}

void ClientCore::resolve(boost::intrusive_ptr<ClientConnection> connection) {
  waiting_.push_back(std::move(connection));
  if (std::exchange(resolving_, true)) return;
  resolver_.async_resolve(server_.host, std::to_string(server_.port),
                          [self = boost::intrusive_ptr(this)](
                              ErrorCode failure, const tcp::resolver::results_type& found) {
                            self->on_resolved(failure, {found.begin(), found.end()});
                          });
}

void ClientCore::on_resolved(ErrorCode failure, std::vector<tcp::endpoint> endpoints) {
  resolving_ = false;
  endpoints_ = std::move(endpoints);
  for (const auto& connection : std::exchange(waiting_, {})) connection->on_resolved(failure);
}

void ClientCore::forget_endpoints() { endpoints_.clear(); }

void ClientCore::shut_down() {
  is_shut_down_ = true;
  while (!calls_.empty()) (*calls_.begin())->abandon();
  for (const auto& connection : std::exchange(idle_, {})) connection->close();
  waiting_.clear();
  resolver_.cancel();
}

ClientCall::ClientCall(boost::intrusive_ptr<ClientCore> core, HttpCall call,
                       HttpCallListener& listener)
    : core_(std::move(core)), call_(std::move(call)), listener_(&listener) {}

void ClientCall::start() {
  core_->add(*this);
  if (call_.deadline.at() != TimePoint::max()) {
    const Nanos left = call_.deadline.at() - std::chrono::steady_clock::now();
    timer_ = core_->loop().after(std::max(left, Nanos(0)), [this] {
      if (connection_) std::exchange(connection_, nullptr)->abandon();
      finish(fail(Code::kDeadlineExceeded, "the server did not answer in time"));
    });
  }
  core_->start(*this, true);
}

void ClientCall::abandon() {
  if (listener_ == nullptr) return;
  listener_ = nullptr;
  timer_.reset();
  core_->forget(*this);
  if (connection_) std::exchange(connection_, nullptr)->abandon();
}

void ClientCall::set_connection(ClientConnection* connection) { connection_.reset(connection); }

void ClientCall::retry() {
  retried_ = true;
  core_->start(*this, false);
}

void ClientCall::finish(Result<void> outcome) {
  HttpCallListener* const listener = std::exchange(listener_, nullptr);
  timer_.reset();
  core_->forget(*this);
  listener->on_done(std::move(outcome));
}

}  // namespace penstock::net
