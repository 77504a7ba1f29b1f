#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <span>
#include <utility>

#include "net/internal/answer_head.h"
#include "net/internal/client_core.h"

namespace penstock::net {
namespace {

constexpr std::size_t kReadBytes = 8 * 1024;

void append_request_head(std::string& out, const HttpCall& call, std::string_view authority) {
  append_field_text(out, call.method);
  out.push_back(' ');
  append_field_text(out, call.path);
  out.append(" HTTP/1.1\r\n");
  append_header(out, "Host", authority);
  for (const auto& [name, value] : call.headers) append_header(out, name, value);
  if (!call.body.empty() || call.method == "POST" || call.method == "PUT") {
    append_header(out, "Content-Length", fmt::format_int(call.body.size()).c_str());
  }
  out.append("\r\n");
}

}  // namespace

ClientConnection::ClientConnection(boost::intrusive_ptr<ClientCore> core)
    : core_(std::move(core)), socket_(core_->loop().context()), parser_(*this) {}

ClientConnection::~ClientConnection() = default;

void ClientConnection::connect(ClientCall& call) {
  call_ = &call;
  call.set_connection(this);
  if (core_->endpoints().empty()) {
    core_->resolve(this);
  } else {
    connect_next(0);
  }
}

void ClientConnection::on_resolved(ErrorCode failure) {
  if (closed_) return;
  if (failure || core_->endpoints().empty()) {
    fail_call(fmt::format("cannot resolve {}: {}", core_->authority(), failure.message()));
  } else {
    connect_next(0);
  }
}

void ClientConnection::connect_next(std::size_t index) {
  ErrorCode ignored;
  socket_.close(ignored);  // what the last attempt left open
  socket_.async_connect(core_->endpoints()[index],
                        [self = boost::intrusive_ptr(this), index](ErrorCode failure) {
                          self->on_connected(index, failure);
                        });
}

void ClientConnection::on_connected(std::size_t index, ErrorCode failure) {
  if (closed_) return;
  if (!failure) socket_.set_option(asio::ip::tcp::no_delay(true), failure);
  if (!failure) socket_.non_blocking(true, failure);
  if (!failure) {
    begin();
    read_more();
  } else if (index + 1 < core_->endpoints().size()) {
    connect_next(index + 1);
  } else {
    core_->forget_endpoints();
    fail_call(fmt::format("cannot connect to {}: {}", core_->authority(), failure.message()));
  }
}

void ClientConnection::reuse(ClientCall& call) {
  call_ = &call;
  call.set_connection(this);
  reused_ = true;
  begin();
}

void ClientConnection::begin() {
  parser_.begin(call_->what().method == "HEAD");
  head_.clear();
  append_request_head(head_, call_->what(), core_->authority());
  sent_bytes_ = 0;
  send_more();
}

void ClientConnection::send_more() {
  const std::string_view body = call_->what().body;
  while (sent_bytes_ < head_.size() + body.size()) {
    const std::size_t of_head = std::min(sent_bytes_, head_.size());
    const std::size_t of_body = sent_bytes_ - of_head;
    const std::array<asio::const_buffer, 2> parts = {
        asio::const_buffer(head_.data() + of_head, head_.size() - of_head),
        asio::const_buffer(body.data() + of_body, body.size() - of_body)};
    ErrorCode failure;
    sent_bytes_ += socket_.write_some(parts, failure);
    // Other failures show in the read that is under way, behind an answer that came before them.
    if (failure && failure != asio::error::would_block) return;
    if (failure) break;
  }
  if (sent_bytes_ == head_.size() + body.size() || send_pending_) return;
  send_pending_ = true;
  socket_.async_wait(TcpSocket::wait_write, [self = boost::intrusive_ptr(this)](ErrorCode failure) {
    self->send_pending_ = false;
    if (!failure && self->call_ != nullptr) self->send_more();
  });
}

void ClientConnection::read_more() {
  const std::span<char> space = input_.space(ResponseParser::kHeaderBytesMax, kReadBytes);
  socket_.async_read_some(
      asio::buffer(space.data(), space.size()),
      [self = boost::intrusive_ptr(this)](ErrorCode failure, std::size_t size_bytes) {
        self->on_read(failure, size_bytes);
      });
}

void ClientConnection::on_read(ErrorCode failure, std::size_t size_bytes) {
  if (closed_) return;
  if (call_ == nullptr) {  // idle: the server closes, or sends what nobody asked for
    core_->drop_idle(*this);
    close();
  } else if (failure) {
    on_end(failure);
  } else {
    input_.commit(size_bytes);
    input_.consume(parser_.feed(input_.data()));
    settle();
  }
}

void ClientConnection::on_end(ErrorCode failure) {
  if (reused_ && !parser_.any_bytes() && call_->may_retry()) {
    // The server closed an idle connection while our request was on its way to it.
    ClientCall& call = release_call();
    close();
    call.retry();
    return;
  }
  if (failure == asio::error::eof) parser_.end_of_input();
  if (parser_.state() == ResponseParser::State::kDone) {
    complete();
  } else {
    fail_call(
        fmt::format("{} closed the connection before its answer was complete", core_->authority()));
  }
}

void ClientConnection::settle() {
  switch (parser_.state()) {
    case ResponseParser::State::kHeader:
    case ResponseParser::State::kBody: read_more(); break;
    case ResponseParser::State::kDone: complete(); break;
    case ResponseParser::State::kFailed:
      fail_call(fmt::format("{} did not answer in HTTP/1.x", core_->authority()));
      break;
    case ResponseParser::State::kStopped: break;  // abandoned, and closed with that
  }
}

void ClientConnection::complete() {
  const bool sent = sent_bytes_ == head_.size() + call_->what().body.size();
  ClientCall& call = release_call();
  // Into the pool before the listener hears of it: its next call may well come from there.
  if (sent && parser_.keep_alive() && input_.empty()) {
    read_more();
    core_->put_idle(*this);
  } else {
    close();
  }
  call.finish({});
}

void ClientConnection::fail_call(std::string message) {
  ClientCall& call = release_call();
  close();
  call.finish(fail(Code::kUnavailable, std::move(message)));
}

ClientCall& ClientConnection::release_call() {
  // The call's reference may be the last but that of the callback we are in.
  ClientCall& call = *std::exchange(call_, nullptr);
  call.set_connection(nullptr);
  return call;
}

void ClientConnection::abandon() {
  call_ = nullptr;
  close();
}

void ClientConnection::close() {
  closed_ = true;
  ErrorCode ignored;
  socket_.close(ignored);
}

bool ClientConnection::on_head(int status) {
  call_->listener().on_headers(status);
  return call_ != nullptr;
}

bool ClientConnection::on_body_piece(std::string_view bytes) {
  call_->listener().on_body(bytes);
  return call_ != nullptr;
}

}  // namespace penstock::net
