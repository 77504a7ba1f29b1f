#include "net/internal/response_parser.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/beast/http/error.hpp>
#include <limits>

namespace penstock::net {

namespace http = boost::beast::http;

ResponseParser::Beast::Beast(ResponseParser& owner, bool to_head) : owner_(owner) {
  eager(true);
  skip(to_head);
  header_limit(kHeaderBytesMax);
  body_limit(std::numeric_limits<std::uint64_t>::max());
}

void ResponseParser::Beast::on_response_impl(int status, Text, int, Failure&) {
  owner_.status_ = status;
}

void ResponseParser::Beast::on_header_impl(Failure& failure) {
  if (owner_.interim()) {
    if (owner_.status_ == 101) failure = http::error::bad_status;  // nobody asked to switch
    return;
  }
  if (!owner_.sink_.on_head(owner_.status_)) owner_.stop(failure);
}

std::size_t ResponseParser::Beast::on_body_impl(Text bytes, Failure& failure) {
  if (!bytes.empty() && !owner_.sink_.on_body_piece({bytes.data(), bytes.size()})) {
    owner_.stop(failure);
  }
  return bytes.size();
}

std::size_t ResponseParser::Beast::on_chunk_body_impl(std::uint64_t, Text bytes,
                                                      Failure& failure) {
  return on_body_impl(bytes, failure);
}

void ResponseParser::begin(bool to_head) {
  to_head_ = to_head;
  any_bytes_ = false;
  state_ = State::kOpen;
  beast_.emplace(*this, to_head);
}

std::size_t ResponseParser::feed(std::string_view bytes) {
  any_bytes_ |= !bytes.empty();
  std::size_t taken = 0;
  while (state_ == State::kOpen && taken < bytes.size()) {
    const std::string_view window = bytes.substr(taken, kHeaderBytesMax);
    boost::beast::error_code failure;
    const std::size_t used = beast_->put(boost::asio::const_buffer(window.data(), window.size()), failure);
    taken += used;
    if (state_ == State::kStopped) break;
    if (failure == http::error::need_more) {
      if (used > 0) continue;
      if (window.size() == kHeaderBytesMax) state_ = State::kFailed;
      break;
    }
    if (failure) {
      state_ = State::kFailed;
    } else if (beast_->is_done()) {
      take_end_of_message();
    }
  }
  return taken;
}

void ResponseParser::take_end_of_message() {
  if (interim()) {
    beast_.emplace(*this, to_head_);  // the answer proper comes next
    return;
  }
  keep_alive_ = beast_->keep_alive();
  state_ = State::kDone;
}

void ResponseParser::end_of_input() {
  if (state_ != State::kOpen) return;
  boost::beast::error_code failure = http::error::partial_message;
  if (beast_->got_some()) beast_->put_eof(failure);
  keep_alive_ = false;
  state_ = failure ? State::kFailed : State::kDone;
}

void ResponseParser::stop(boost::beast::error_code& failure) {
  state_ = State::kStopped;
  failure = boost::asio::error::operation_aborted;
}

}  // namespace penstock::net
