// The half of ServerConnection that answers: Exchange's methods and what they send.

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <span>
#include <utility>

#include "base/check.h"
#include "net/internal/answer_head.h"
#include "net/internal/server_connection.h"

namespace penstock::net {

void ServerConnection::own(std::unique_ptr<Transaction> transaction) {
  if (state_ != State::kExchange) return;
  CHECK(transaction_ == nullptr);
  transaction_ = std::move(transaction);
}

bool ServerConnection::keeps_alive() const noexcept {
  return parser_.keep_alive() && !server_.draining();
}

void ServerConnection::respond(int status, std::string_view content_type, std::string_view body,
                               std::initializer_list<HttpHeader> headers) {
  if (state_ != State::kExchange) return;
  CHECK(!streaming_);
  std::string& head = server_.scratch();
  head.clear();
  append_head(head, {.status = status,
                     .content_type = content_type,
                     .content_length = body.size(),
                     .keep_alive = keeps_alive(),
                     .http_1_0 = parser_.http_1_0(),
                     .headers = std::span(headers.begin(), headers.size()),
                     .request_id = request_.id,
                     .lines = server_.options().answer_headers});
  close_after_ = !keeps_alive();
  const bool bodiless = request_.method == HttpRequest::Method::kHead || !has_body(status);
  send({head, bodiless ? std::string_view() : body});
  end_exchange();
}

void ServerConnection::start_stream(std::string_view content_type,
                                    std::initializer_list<HttpHeader> headers) {
  if (state_ != State::kExchange) return;
  CHECK(!streaming_);
  streaming_ = true;
  chunked_ = !parser_.http_1_0();  // which cannot tell the end of a stream but by closing
  close_after_ = !keeps_alive() || !chunked_;
  std::array<HttpHeader, 16> all = {HttpHeader{"Cache-Control", "no-cache"},
                                    HttpHeader{"X-Accel-Buffering", "no"}};
  CHECK_LE(headers.size() + 2, all.size());
  std::ranges::copy(headers, all.begin() + 2);
  std::string& head = server_.scratch();
  head.clear();
  append_head(head, {.content_type = content_type,
                     .chunked = chunked_,
                     .keep_alive = !close_after_,
                     .http_1_0 = parser_.http_1_0(),
                     .headers = std::span(all).first(headers.size() + 2),
                     .request_id = request_.id,
                     .lines = server_.options().answer_headers});
  unsent_.append(head);
}

void ServerConnection::write(std::string_view bytes) {
  if (state_ != State::kExchange || broken_) return;
  CHECK(streaming_);
  if (request_.method == HttpRequest::Method::kHead) return;
  chunk_.append(bytes);
  if (unsent_bytes() > server_.options().stream_bytes_max) drop_soon();
}

void ServerConnection::flush() {
  if (state_ != State::kExchange) return;
  CHECK(streaming_);
  flush_stream(false);
}

void ServerConnection::finish() {
  if (state_ != State::kExchange) return;
  CHECK(streaming_);
  flush_stream(true);
  end_exchange();
}

void ServerConnection::flush_stream(bool last) {
  const bool coded = chunked_ && request_.method != HttpRequest::Method::kHead;
  if (!coded) {
    send({chunk_});
  } else if (chunk_.empty()) {  // a chunk of no bytes would end the stream
    send({last ? "0\r\n\r\n" : ""});
  } else {
    send({ChunkSizeLine(chunk_.size()).text(), chunk_, last ? "\r\n0\r\n\r\n" : "\r\n"});
  }
  chunk_.clear();
  if (!writable()) was_unwritable_ = true;
}

bool ServerConnection::writable() const noexcept {
  return unsent_bytes() < server_.options().unsent_bytes_high;
}

std::size_t ServerConnection::unsent_bytes() const noexcept {
  return unsent_.size() + chunk_.size();
}

void ServerConnection::end_exchange() {
  // The user's call may hold the last pointer that matters: closing must not end `this` under it.
  const boost::intrusive_ptr<ServerConnection> keep(this);
  state_ = State::kFlushing;
  streaming_ = false;
  was_unwritable_ = false;
  std::exchange(transaction_, nullptr).reset();
  request_.headers.clear();
  clear_and_shrink(request_.target);
  clear_and_shrink(request_.id);
  release_body();
  clear_and_shrink(chunk_);
  if (unsent_.empty()) {
    on_answer_sent();
  } else {
    watch();
  }
}

// Sends what is unsent and then `parts`, with one system call; what the socket does not take is
// kept. While the socket is known to be full, everything is.
void ServerConnection::send(std::initializer_list<std::string_view> parts) {
  if (broken_) {
    unsent_.clear();
    return;
  }
  if (blocked_) {
    keep_unsent(parts, 0);
    return;
  }
  std::array<asio::const_buffer, 4> buffers;
  std::size_t count = 0;
  std::size_t total_bytes = 0;
  const auto add = [&](std::string_view part) {
    if (part.empty()) return;
    buffers.at(count++) = asio::const_buffer(part.data(), part.size());
    total_bytes += part.size();
  };
  add(unsent_.unsent());
  std::ranges::for_each(parts, add);
  if (count == 0) return;
  ErrorCode failure;
  const std::size_t sent_bytes = offer(std::span(buffers).first(count), total_bytes, failure);
  if (failure && failure != asio::error::would_block) {
    drop_soon();
    return;
  }
  keep_unsent(parts, sent_bytes);
  if (sent_bytes < total_bytes) wait_until_writable(sent_bytes > 0);
}

// Few bytes in one piece: a vector's cost in the kernel is a twentieth of a streamed token's.
std::size_t ServerConnection::offer(std::span<const asio::const_buffer> parts,
                                    std::size_t total_bytes, ErrorCode& failure) {
  std::array<char, 1024> whole;
  if (total_bytes > whole.size()) return socket_.write_some(parts, failure);
  asio::buffer_copy(asio::buffer(whole), parts);
  return socket_.write_some(asio::buffer(whole.data(), total_bytes), failure);
}

void ServerConnection::keep_unsent(std::initializer_list<std::string_view> parts,
                                   std::size_t sent_bytes) {
  const std::size_t before = std::min(sent_bytes, unsent_.size());
  unsent_.sent(before);
  sent_bytes -= before;
  for (std::string_view part : parts) {
    const std::size_t skip = std::min(sent_bytes, part.size());
    unsent_.append(part.substr(skip));
    sent_bytes -= skip;
  }
}

void ServerConnection::wait_until_writable(bool progressed) {
  blocked_ = true;
  if (progressed || stall_deadline_ == TimePoint::max()) {
    stall_deadline_ = server_.deadline_in(server_.options().write_stall_timeout);
  }
  socket_.async_wait(TcpSocket::wait_write, [self = boost::intrusive_ptr(this)](ErrorCode failure) {
    self->on_socket_writable(failure);
  });
  if (state_ == State::kExchange) watch();
}

void ServerConnection::on_socket_writable(ErrorCode failure) {
  blocked_ = false;
  if (state_ == State::kClosed || failure) return;  // a failed wait means a closed socket
  send({});
  if (!blocked_) stall_deadline_ = TimePoint::max();
  if (state_ != State::kExchange && state_ != State::kFlushing) return;
  watch();
  if (state_ == State::kFlushing) {
    if (unsent_.empty()) on_answer_sent();
  } else if (was_unwritable_ && unsent_bytes() < server_.options().unsent_bytes_low) {
    was_unwritable_ = false;
    if (transaction_) transaction_->on_writable();
  }
}

void ServerConnection::drop_soon() {
  if (std::exchange(broken_, true)) return;
  unsent_.clear();
  chunk_.clear();
  asio::post(server_.loop().context(), [self = boost::intrusive_ptr(this)] {
    if (self->state_ == State::kExchange) {
      self->client_gone();
    } else {
      self->close();
    }
  });
}

}  // namespace penstock::net
