#include "net/internal/response_parser.h"

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <limits>

namespace penstock::net {
namespace {

/// Beast's parser, of the header only: what matters can be asked of it afterwards.
class Beast final : public boost::beast::http::basic_parser<false> {
 public:
  explicit Beast(bool to_head) {
    skip(to_head);
    header_limit(std::numeric_limits<std::uint32_t>::max());  // feed_header() has held it to ours
    body_limit(boost::none);
  }
  [[nodiscard]] int status() const noexcept { return status_; }

 private:
  using Text = boost::beast::string_view;
  using Failure = boost::beast::error_code;

  void on_response_impl(int status, Text, int, Failure&) override { status_ = status; }
  void on_field_impl(boost::beast::http::field, Text, Text, Failure&) override {}
  void on_header_impl(Failure&) override {}

  // Never called: this is no request, and its body is not shown to Beast.
  void on_request_impl(boost::beast::http::verb, Text, Text, int, Failure&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, Failure&) override {}
  std::size_t on_body_impl(Text, Failure&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t, Text, Failure&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, Text, Failure&) override { return 0; }
  void on_finish_impl(Failure&) override {}

  int status_ = 0;
};

bool may_start(std::string_view header) noexcept {
  constexpr std::string_view kStart = "HTTP/1.";
  return kStart.starts_with(header.substr(0, kStart.size()));
}

}  // namespace

void ResponseParser::begin(bool to_head) noexcept {
  to_head_ = to_head;
  any_bytes_ = false;
  keep_alive_ = false;
  scanner_ = {};
  chunks_ = {};
  body_left_ = 0;
  state_ = State::kHeader;
}

std::size_t ResponseParser::feed(std::string_view bytes) {
  any_bytes_ |= !bytes.empty();
  std::size_t taken = 0;
  while (taken < bytes.size()) {
    std::size_t used = 0;
    if (state_ == State::kHeader) {
      used = feed_header(bytes.substr(taken));
    } else if (state_ == State::kBody) {
      used = feed_body(bytes.substr(taken));
    }
    if (used == 0) break;
    taken += used;
  }
  return taken;
}

std::size_t ResponseParser::feed_header(std::string_view bytes) {
  const std::string_view header = bytes.substr(0, kHeaderBytesMax);
  const auto found = may_start(header) ? scanner_.scan(header) : HeaderScanner::Found::kMalformed;
  switch (found) {
    case HeaderScanner::Found::kEnd: {
      const std::size_t size_bytes = scanner_.size_bytes();
      take_header(header.substr(0, size_bytes));
      return size_bytes;
    }
    case HeaderScanner::Found::kMalformed: state_ = State::kFailed; break;
    case HeaderScanner::Found::kNothingYet:
      if (header.size() == kHeaderBytesMax) state_ = State::kFailed;
      break;
  }
  return 0;
}

void ResponseParser::take_header(std::string_view header) {
  Beast beast(to_head_);
  boost::beast::error_code failure;
  beast.put(boost::asio::const_buffer(header.data(), header.size()), failure);
  if (failure || beast.status() < 100 || beast.status() == 101) {  // nobody asked to switch
    state_ = State::kFailed;
    return;
  }
  if (beast.status() < 200) {
    scanner_ = {};  // the answer proper comes next
    return;
  }
  if (!sink_.on_head(beast.status())) {
    state_ = State::kStopped;
    return;
  }
  keep_alive_ = beast.keep_alive();
  state_ = beast.is_done() ? State::kDone : State::kBody;
  body_left_ = beast.content_length().value_or(0);
  body_ = beast.chunked() ? Body::kChunked : beast.need_eof() ? Body::kToEnd : Body::kCounted;
}

std::size_t ResponseParser::feed_body(std::string_view bytes) {
  switch (body_) {
    case Body::kToEnd: deliver(bytes); return bytes.size();
    case Body::kCounted: {
      const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(body_left_, bytes.size()));
      body_left_ -= size;
      if (body_left_ == 0) state_ = State::kDone;
      deliver(bytes.substr(0, size));
      return size;
    }
    case Body::kChunked: {
      std::string_view data;
      const std::size_t size = chunks_.feed(bytes, data);
      if (chunks_.state() == ChunkDecoder::State::kDone) state_ = State::kDone;
      if (chunks_.state() == ChunkDecoder::State::kFailed) state_ = State::kFailed;
      deliver(data);
      return size;
    }
  }
  return 0;
}

void ResponseParser::deliver(std::string_view bytes) {
  if (!bytes.empty() && !sink_.on_body_piece(bytes)) state_ = State::kStopped;
}

void ResponseParser::end_of_input() noexcept {
  if (state_ == State::kBody && body_ == Body::kToEnd) {
    state_ = State::kDone;
  } else if (state_ != State::kDone) {
    state_ = State::kFailed;
  }
}

}  // namespace penstock::net
