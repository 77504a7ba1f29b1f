#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "net/http_server.h"
#include "net/internal/chunk_decoder.h"
#include "net/internal/fault.h"
#include "net/internal/header_scanner.h"

namespace penstock::net {

/// Turns bytes into HttpRequests, one after another. Knows no socket. Not thread safe.
///
/// Beast's parser reads the header, once it is there whole; this class is stricter where request
/// smuggling lives. Bodies are taken without Beast: those of declared length can be received in
/// place, and Beast reads some malformed chunks differently when they come in pieces.
///
/// Invariant: how the input is split changes neither the request nor the fault.
class RequestParser final {
 public:
  enum class State : std::uint8_t { kHeader, kBody, kDone, kFailed };

  RequestParser(std::size_t header_bytes_max, std::size_t body_bytes_max) noexcept
      : header_bytes_max_(header_bytes_max), body_bytes_max_(body_bytes_max) {}

  /// The next bytes begin a new request, to be stored in `request` (which must outlive it).
  void begin(HttpRequest& request);

  /// Takes what it can of `bytes`, which start where the last call stopped taking, and says how
  /// much. What it leaves must come again with more behind it. Takes nothing past the request.
  std::size_t feed(std::string_view bytes);

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] const HttpFault& fault() const noexcept { return fault_; }  // kFailed only

  /// Where the rest of a body of declared length may be received, at most what is missing; empty
  /// for other bodies. Valid until the next call here.
  [[nodiscard]] std::span<char> body_space();
  void body_received(std::size_t size_bytes);

  // Of a request whose header is complete.
  [[nodiscard]] std::size_t body_bytes() const noexcept { return body_received_; }  // so far
  [[nodiscard]] bool keep_alive() const noexcept { return keep_alive_; }
  [[nodiscard]] bool http_1_0() const noexcept { return http_1_0_; }
  [[nodiscard]] bool expects_continue() const noexcept { return expects_continue_; }

 private:
  /// Beast's parser, of the header only, with its findings passed on. One a request.
  class Beast final : public boost::beast::http::basic_parser<true> {
   public:
    Beast(RequestParser& owner, std::uint64_t body_bytes_max);

   private:
    using Field = boost::beast::http::field;
    using Text = boost::beast::string_view;
    using Failure = boost::beast::error_code;

    void on_request_impl(boost::beast::http::verb method, Text method_text, Text target,
                         int version, Failure& failure) override;
    void on_field_impl(Field field, Text name, Text value, Failure& failure) override;
    void on_header_impl(Failure&) override {}

    // Never called: this is no response, and its body is not shown to Beast.
    void on_response_impl(int, Text, int, Failure&) override {}
    void on_body_init_impl(const boost::optional<std::uint64_t>&, Failure&) override {}
    std::size_t on_body_impl(Text, Failure&) override { return 0; }
    void on_chunk_header_impl(std::uint64_t, Text, Failure&) override {}
    std::size_t on_chunk_body_impl(std::uint64_t, Text, Failure&) override { return 0; }
    void on_finish_impl(Failure&) override {}

    RequestParser& owner_;
  };

  std::size_t feed_header(std::string_view bytes);
  std::size_t feed_counted_body(std::string_view bytes);
  std::size_t feed_chunked_body(std::string_view bytes);
  void take_header(std::string_view header);
  void check_framing();
  void fail(int status, Code code, std::string_view message);
  void fail_too_large();
  void fail_as(const boost::beast::error_code& failure, std::string_view header);
  void finish_body();

  const std::size_t header_bytes_max_;
  const std::size_t body_bytes_max_;
  HttpRequest* request_ = nullptr;
  HeaderScanner scanner_;
  ChunkDecoder chunks_;

  State state_ = State::kHeader;
  bool keep_alive_ = false;
  bool http_1_0_ = false;
  bool expects_continue_ = false;
  bool chunked_ = false;
  int content_lengths_ = 0;  // fields of that name
  int transfer_encodings_ = 0;
  int hosts_ = 0;
  bool framing_is_plain_ = true;  // no length or coding but those we understand exactly

  std::size_t blank_bytes_ = 0;    // of empty lines skipped before the request line
  std::uint64_t body_size_ = 0;    // declared
  std::size_t body_received_ = 0;  // bytes of request_->body that are the client's
  HttpFault fault_;
};

}  // namespace penstock::net
