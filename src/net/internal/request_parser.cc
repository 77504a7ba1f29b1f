#include "net/internal/request_parser.h"

#include <algorithm>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/field.hpp>
#include <boost/beast/http/verb.hpp>
#include <cstring>
#include <limits>
#include <string>

namespace penstock::net {
namespace {

namespace http = boost::beast::http;

constexpr std::size_t kHeadersMax = 256;               // fields a request
constexpr std::size_t kFirstReserveMax = 1024 * 1024;  // of a body, whatever it declares

std::string_view view(boost::beast::string_view text) noexcept {
  return {text.data(), text.size()};
}

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool equals_lower(std::string_view text, std::string_view lower_case) noexcept {
  return std::ranges::equal(text, lower_case, {}, lower);
}

/// Bytes that no request line, and no empty line before one, begins with. Worth telling at once: a
/// TLS client waits for an answer without ever ending a line.
bool starts_no_line(char c) noexcept { return static_cast<signed char>(c) < ' ' && c != '\r'; }

/// Whether a request line ends in a version that is not ours. One that ends in ours and is refused
/// for its version all the same has a space too many.
bool names_other_version(std::string_view line) noexcept {
  constexpr std::string_view kShape = " HTTP/d.d";
  if (line.size() < kShape.size()) return false;
  const std::string_view version = line.substr(line.size() - kShape.size());
  return version != " HTTP/1.1" && version != " HTTP/1.0" &&
         std::ranges::equal(version, kShape, [](char c, char s) {
           return s == 'd' ? c >= '0' && c <= '9' : c == s;
         });
}

HttpRequest::Method to_method(http::verb verb) noexcept {
  using Method = HttpRequest::Method;
  switch (verb) {
    case http::verb::get: return Method::kGet;
    case http::verb::head: return Method::kHead;
    case http::verb::post: return Method::kPost;
    case http::verb::put: return Method::kPut;
    case http::verb::delete_: return Method::kDelete;
    case http::verb::options: return Method::kOptions;
    case http::verb::patch: return Method::kPatch;
    default: return Method::kOther;
  }
}

}  // namespace

RequestParser::Beast::Beast(RequestParser& owner, std::uint64_t body_bytes_max) : owner_(owner) {
  header_limit(std::numeric_limits<std::uint32_t>::max());  // feed_header() has held it to ours
  body_limit(body_bytes_max);
}

void RequestParser::Beast::on_request_impl(http::verb method, Text, Text target, int version,
                                           Failure&) {
  owner_.request_->method = to_method(method);
  owner_.request_->target.assign(target.data(), target.size());
  owner_.http_1_0_ = version == 10;
}

void RequestParser::Beast::on_field_impl(Field field, Text name, Text value, Failure& failure) {
  auto& headers = owner_.request_->headers;
  if (headers.size() >= kHeadersMax) {
    failure = http::error::header_limit;
    return;
  }
  std::string& own_name = headers.emplace_back(view(name), view(value)).first;
  std::ranges::transform(own_name, own_name.begin(), lower);
  switch (field) {
    case Field::content_length:
      ++owner_.content_lengths_;
      owner_.framing_is_plain_ &=
          std::ranges::all_of(view(value), [](char c) { return c >= '0' && c <= '9'; });
      break;
    case Field::transfer_encoding:
      ++owner_.transfer_encodings_;
      owner_.framing_is_plain_ &= equals_lower(view(value), "chunked");
      break;
    case Field::host: ++owner_.hosts_; break;
    case Field::expect:
      owner_.expects_continue_ |= equals_lower(view(value), "100-continue");
      break;
    default: break;
  }
}

void RequestParser::begin(HttpRequest& request) {
  request_ = &request;
  request.headers.clear();
  request.target.clear();
  request.body.clear();
  scanner_ = {};
  chunks_ = {};
  state_ = State::kHeader;
  keep_alive_ = http_1_0_ = expects_continue_ = chunked_ = false;
  content_lengths_ = transfer_encodings_ = hosts_ = 0;
  framing_is_plain_ = true;
  blank_bytes_ = 0;
  body_size_ = 0;
  body_received_ = 0;
}

std::size_t RequestParser::feed(std::string_view bytes) {
  std::size_t taken = 0;
  if (state_ == State::kHeader) taken = feed_header(bytes);
  if (state_ == State::kBody) {
    bytes.remove_prefix(taken);
    taken += chunked_ ? feed_chunked_body(bytes) : feed_counted_body(bytes);
  }
  return taken;
}

std::size_t RequestParser::feed_header(std::string_view bytes) {
  // Empty lines before a request line are allowed (RFC 9112, 2.2), and count as header.
  std::size_t skipped = 0;
  while (scanner_.in_first_line() && bytes.substr(skipped, 2) == "\r\n") {
    skipped += 2;
    scanner_ = {};
  }
  blank_bytes_ += skipped;
  const std::size_t room = header_bytes_max_ - std::min(blank_bytes_, header_bytes_max_);
  const std::string_view header = bytes.substr(skipped, room);
  if (!header.empty() && starts_no_line(header.front())) {
    fail(400, Code::kInvalidArgument, "malformed HTTP request: is this TLS sent to a plain port?");
    return skipped;
  }
  switch (scanner_.scan(header)) {
    case HeaderScanner::Found::kEnd:
      take_header(header.substr(0, scanner_.size_bytes()));
      return skipped + scanner_.size_bytes();
    case HeaderScanner::Found::kMalformed:
      fail(400, Code::kInvalidArgument, "malformed HTTP request: bad line ending or folded line");
      return skipped;
    case HeaderScanner::Found::kNothingYet: break;
  }
  if (header.size() == room) {
    fail(431, Code::kHeaderTooLarge, "request line and headers are larger than this server takes");
  }
  return skipped;
}

void RequestParser::take_header(std::string_view header) {
  if (header.starts_with("PRI * HTTP/2")) {
    fail(505, Code::kInvalidArgument, "HTTP/2 is not spoken here: use HTTP/1.1");
    return;
  }
  Beast beast(*this, body_bytes_max_);
  boost::beast::error_code failure;
  beast.put(boost::asio::const_buffer(header.data(), header.size()), failure);
  if (failure) {
    fail_as(failure, header);
    return;
  }
  check_framing();
  if (state_ == State::kFailed) return;
  keep_alive_ = beast.keep_alive();
  chunked_ = beast.chunked();
  state_ = State::kBody;
  if (chunked_) return;
  body_size_ = beast.content_length().value_or(0);
  if (body_size_ == 0) {
    finish_body();
    return;
  }
  const auto first = std::min<std::uint64_t>(body_size_, kFirstReserveMax);
  request_->body.reserve(static_cast<std::size_t>(first) + kBodyPaddingBytes);
}

void RequestParser::check_framing() {
  const bool both = content_lengths_ + transfer_encodings_ > 1;
  const bool coded_1_0 = http_1_0_ && transfer_encodings_ > 0;
  if (both || coded_1_0 || !framing_is_plain_) {
    fail(400, Code::kInvalidArgument,
         "ambiguous request: send one plain Content-Length or Transfer-Encoding: chunked");
  } else if (hosts_ > 1 || (hosts_ == 0 && !http_1_0_)) {
    fail(400, Code::kInvalidArgument, "an HTTP/1.1 request carries exactly one Host header");
  }
}

std::size_t RequestParser::feed_counted_body(std::string_view bytes) {
  const std::span<char> space = body_space();
  std::size_t taken = std::min(space.size(), bytes.size());
  std::memcpy(space.data(), bytes.data(), taken);
  body_received(taken);
  return taken;
}

std::span<char> RequestParser::body_space() {
  if (state_ != State::kBody || chunked_) return {};
  std::string& body = request_->body;
  if (body_received_ == body.size()) {
    // Doubling what has really arrived: a declared length alone reserves at most kFirstReserveMax.
    const auto doubled = std::max<std::uint64_t>(kFirstReserveMax, body_received_ * 2);
    const auto room = static_cast<std::size_t>(std::min(body_size_, doubled));
    body.reserve(room + kBodyPaddingBytes);
    body.resize_and_overwrite(room, [](char*, std::size_t size) { return size; });
  }
  return std::span(body).subspan(body_received_);
}

void RequestParser::body_received(std::size_t size_bytes) {
  body_received_ += size_bytes;
  if (body_received_ == body_size_) finish_body();
}

std::size_t RequestParser::feed_chunked_body(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && state_ == State::kBody) {
    std::string_view data;
    taken += chunks_.feed(bytes.substr(taken), data);
    request_->body.append(data);
    body_received_ += data.size();
    const bool in_chunk = chunks_.state() == ChunkDecoder::State::kData;
    if (in_chunk && chunks_.chunk_left() > body_bytes_max_ - body_received_) {
      fail_too_large();
    } else if (chunks_.state() == ChunkDecoder::State::kFailed) {
      fail(400, Code::kInvalidArgument, "malformed HTTP request: bad chunk");
    } else if (chunks_.state() == ChunkDecoder::State::kDone) {
      finish_body();
    }
  }
  return taken;
}

void RequestParser::finish_body() {
  std::string& body = request_->body;
  // Growing by the padding and shrinking again leaves zeros behind the end, within the capacity.
  body.resize(body_received_);
  body.resize(body_received_ + kBodyPaddingBytes, '\0');
  body.resize(body_received_);
  state_ = State::kDone;
}

void RequestParser::fail(int status, Code code, std::string_view message) {
  state_ = State::kFailed;
  keep_alive_ = false;
  fault_ = {status, code, message};
}

void RequestParser::fail_too_large() {
  fail(413, Code::kPayloadTooLarge, "request body is larger than this server takes");
}

void RequestParser::fail_as(const boost::beast::error_code& failure, std::string_view header) {
  if (failure == http::error::body_limit) {
    fail_too_large();
  } else if (failure == http::error::header_limit) {
    fail(431, Code::kHeaderTooLarge, "request has more header fields than this server takes");
  } else if (failure == http::error::bad_version &&
             names_other_version(header.substr(0, header.find('\r')))) {
    fail(505, Code::kInvalidArgument, "only HTTP/1.1 and HTTP/1.0 are spoken here");
  } else {
    fail(400, Code::kInvalidArgument, "malformed HTTP request");
  }
}

}  // namespace penstock::net
