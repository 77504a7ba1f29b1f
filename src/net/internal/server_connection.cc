#include "net/internal/server_connection.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <chrono>
#include <span>
#include <utility>

#include "base/check.h"
#include "net/internal/answer_head.h"

namespace penstock::net {
namespace {

constexpr Nanos kLingerTimeout = std::chrono::seconds(5);
constexpr std::size_t kSmallBodyBytes = 64 * 1024;  // not worth an atomic operation

std::size_t input_bytes_max(const HttpServerOptions& options) noexcept {
  return std::max(options.header_bytes_max, InputBuffer::kInlineBytes);
}

bool is_request_id(std::string_view text) {
  return !text.empty() && text.size() <= HttpRequest::kIdBytesMax &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~'; });
}

std::string describe_peer(const TcpSocket& socket) {
  ErrorCode failure;
  const auto peer = socket.remote_endpoint(failure);
  if (failure) return "unknown";
  const bool v6 = peer.address().is_v6();
  return fmt::format("{}{}{}:{}", v6 ? "[" : "", peer.address().to_string(), v6 ? "]" : "",
                     peer.port());
}

}  // namespace

ServerConnection::ServerConnection(ServerLoop& server, TcpSocket socket)
    : server_(server),
      socket_(std::move(socket)),
      parser_(server.options().header_bytes_max, server.options().body_bytes_max),
      peer_(describe_peer(socket_)) {}

ServerConnection::~ServerConnection() = default;

void ServerConnection::start() {
  server_.set_deadline(slot_, server_.deadline_in(server_.options().idle_timeout));
  read_more();
}

void ServerConnection::start_refused() {
  refused_ = true;
  reject({503, Code::kUnavailable, "too many connections: retry later"}, {{"Retry-After", "1"}});
}

// Input

void ServerConnection::read_more() {
  if (read_pending_ || client_shut_ || state_ == State::kClosed) return;
  std::span<char> space;
  read_into_body_ = false;
  if (state_ == State::kLingering) {
    space = server_.discarded();
  } else if (state_ == State::kBody && input_.empty()) {
    space = parser_.body_space();
    read_into_body_ = !space.empty();
  }
  if (space.empty()) {
    const std::size_t bytes_max = input_bytes_max(server_.options());
    space = input_.space(bytes_max, state_ == State::kBody ? bytes_max : InputBuffer::kInlineBytes);
  }
  paused_ = space.empty();
  if (paused_) {
    watch();
    return;
  }
  read_pending_ = true;
  socket_.async_read_some(
      asio::buffer(space.data(), space.size()),
      [self = boost::intrusive_ptr(this)](ErrorCode failure, std::size_t size_bytes) {
        self->on_read(failure, size_bytes);
      });
}

void ServerConnection::on_read(ErrorCode failure, std::size_t size_bytes) {
  read_pending_ = false;
  if (state_ == State::kClosed) return;
  if (failure) {
    on_read_failed(failure == asio::error::eof);
    return;
  }
  if (state_ != State::kLingering) {
    if (!read_into_body_) {
      input_.commit(size_bytes);
    } else if (state_ == State::kBody) {
      parser_.body_received(size_bytes);
    }
    process_input();
  }
  read_more();
}

void ServerConnection::on_read_failed(bool end_of_file) {
  if (state_ == State::kExchange) {
    client_gone();
  } else if (state_ == State::kFlushing && end_of_file && !broken_) {
    client_shut_ = true;  // it may well read on; write_stall_timeout bounds that
  } else {
    close();
  }
}

void ServerConnection::process_input() {
  if (processing_) return;
  processing_ = true;
  while (process_step()) {
  }
  processing_ = false;
  if (state_ == State::kIdle) {
    server_.set_deadline(slot_, server_.deadline_in(server_.options().idle_timeout));
  }
}

bool ServerConnection::process_step() {
  if (state_ == State::kIdle && !input_.empty()) {
    parser_.begin(request_);
    state_ = State::kHeader;
    server_.set_deadline(slot_, server_.deadline_in(server_.options().header_timeout));
  }
  if (state_ != State::kHeader && state_ != State::kBody) return false;
  input_.consume(parser_.feed(input_.data()));
  if (!charge_body()) {
    reject({503, Code::kUnavailable, "too many large requests at once: retry later"},
           {{"Retry-After", "1"}});
    return false;
  }
  switch (parser_.state()) {
    case RequestParser::State::kHeader: return false;
    case RequestParser::State::kBody:
      if (state_ == State::kHeader) {
        state_ = State::kBody;
        server_.set_deadline(slot_, server_.deadline_in(server_.options().body_timeout));
        send_continue();
      }
      return false;
    case RequestParser::State::kDone: dispatch(); return true;
    case RequestParser::State::kFailed: reject(parser_.fault(), {}); return false;
  }
  return false;
}

void ServerConnection::send_continue() {
  // Whoever has begun to send the body anyway needs no leave.
  const bool begun = !input_.empty() || parser_.body_bytes() > 0;
  if (!parser_.expects_continue() || parser_.http_1_0() || begun) return;
  send({"HTTP/1.1 100 Continue\r\n\r\n"});
}

void ServerConnection::dispatch() {
  state_ = State::kExchange;
  server_.counters().requests.add();
  counted_ = true;
  request_.peer = peer_;
  name_request();
  watch();
  server_.handler().handle(*this);
}

/// Also one of which not even the header came.
void ServerConnection::name_request() {
  const std::string_view id = request_.header("x-request-id");
  request_.id = is_request_id(id) ? std::string(id) : server_.next_request_id();
}

bool ServerConnection::charge_body() {
  const std::size_t size_bytes = parser_.body_bytes();
  if (size_bytes <= kSmallBodyBytes) return true;
  if (!server_.charge_body(size_bytes - charged_bytes_)) return false;
  charged_bytes_ = size_bytes;
  return true;
}

void ServerConnection::release_body() {
  if (charged_bytes_ > 0) server_.release_body(std::exchange(charged_bytes_, 0));
  clear_and_shrink(request_.body);
}

void ServerConnection::resume_soon() {
  if (std::exchange(resume_pending_, true)) return;
  asio::post(server_.loop().context(), [self = boost::intrusive_ptr(this)] {
    self->resume_pending_ = false;
    if (self->state_ == State::kClosed) return;
    self->process_input();
    self->read_more();
  });
}

// Ends

void ServerConnection::watch() {
  // Only for kExchange and kFlushing: the other states have a deadline of their own.
  TimePoint next = TimePoint::max();
  if (blocked_) next = stall_deadline_;
  if (paused_) next = TimePoint::min();  // the very next tick, to look after the client
  server_.set_deadline(slot_, next);
}

void ServerConnection::on_deadline(TimePoint now) {
  switch (state_) {
    case State::kIdle: linger(); break;
    case State::kHeader:
      reject({408, Code::kTimeout, "the request's header did not arrive in time"}, {});
      break;
    case State::kBody:
      reject({408, Code::kTimeout, "the request's body did not arrive in time"}, {});
      break;
    case State::kExchange:
    case State::kFlushing: {
      const bool stalled = blocked_ && now >= stall_deadline_;
      if (!stalled && !(paused_ && client_has_left())) {
        watch();
      } else if (state_ == State::kExchange) {
        client_gone();
      } else {
        close();
      }
      break;
    }
    case State::kLingering: close(); break;
    case State::kClosed: break;
  }
}

bool ServerConnection::client_has_left() {
  pollfd descriptor{.fd = socket_.native_handle(), .events = POLLRDHUP, .revents = 0};
  return ::poll(&descriptor, 1, 0) > 0;
}

void ServerConnection::drain() {
  if (state_ == State::kIdle) linger();
}

void ServerConnection::stop() {
  if (state_ == State::kExchange) {
    client_gone();
  } else {
    close();
  }
}

void ServerConnection::client_gone() {
  CHECK(state_ == State::kExchange);
  server_.counters().clients_gone.add();
  const auto transaction = std::move(transaction_);
  close();
  if (transaction) transaction->on_client_gone();
}

void ServerConnection::reject(const HttpFault& fault, std::initializer_list<HttpHeader> headers) {
  if (!refused_) {
    const auto found = std::ranges::find(kRejections, fault.status);
    CHECK(found != kRejections.end());
    server_.counters().rejected[static_cast<std::size_t>(found - kRejections.begin())].add();
  }
  name_request();
  const std::string body = to_json(fault);
  std::string& head = server_.scratch();
  head.clear();
  append_head(head, {.status = fault.status,
                     .content_type = "application/json",
                     .content_length = body.size(),
                     .keep_alive = false,
                     .headers = std::span(headers.begin(), headers.size()),
                     .request_id = request_.id,
                     .lines = server_.options().answer_headers});
  state_ = State::kFlushing;
  close_after_ = true;
  send({head, body});
  if (unsent_.empty()) {
    on_answer_sent();
  } else {
    watch();
  }
}

void ServerConnection::on_answer_sent() {
  if (broken_) return;  // dropped in the next turn
  count_as_ended();
  unsent_.shrink();
  if (close_after_ || client_shut_ || server_.draining()) {
    linger();
    return;
  }
  state_ = State::kIdle;
  if (processing_) return;  // which goes on with the next request by itself
  // Also with a next request at hand: a tick may come before its turn, and must not find the
  // deadline by which it looked after the client of the last one.
  server_.set_deadline(slot_, server_.deadline_in(server_.options().idle_timeout));
  if (!input_.empty()) resume_soon();
}

void ServerConnection::linger() {
  if (client_shut_) {
    close();
    return;
  }
  // Closing with unread bytes would reset the connection, and a reset can overtake the answer: so
  // end our side only, and drop what still comes until the client ends its own or time is up.
  state_ = State::kLingering;
  ErrorCode ignored;
  socket_.shutdown(TcpSocket::shutdown_send, ignored);
  server_.set_deadline(slot_, server_.deadline_in(kLingerTimeout));
  read_more();
}

void ServerConnection::count_as_ended() {
  if (std::exchange(counted_, false)) server_.counters().exchanges_ended.add();
}

void ServerConnection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  count_as_ended();
  ErrorCode ignored;
  socket_.close(ignored);
  if (charged_bytes_ > 0) server_.release_body(std::exchange(charged_bytes_, 0));
  server_.remove(*this, refused_);
}

}  // namespace penstock::net
