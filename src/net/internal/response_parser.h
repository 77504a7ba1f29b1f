#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace penstock::net {

/// Hears what a ResponseParser finds.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  /// Both say whether to go on; false ends the parsing with State::kStopped.
  [[nodiscard]] virtual bool on_head(int status) = 0;
  [[nodiscard]] virtual bool on_body_piece(std::string_view bytes) = 0;
};

/// Turns bytes into the answer to one request, interim (1xx) answers left out. Knows no socket.
/// Not thread safe. Invariant: how the input is split changes only how the body is cut in pieces.
class ResponseParser final {
 public:
  enum class State : std::uint8_t { kOpen, kDone, kFailed, kStopped };

  static constexpr std::size_t kHeaderBytesMax = 64 * 1024;

  explicit ResponseParser(ResponseSink& sink) noexcept : sink_(sink) {}

  /// The next bytes begin the answer to a request, which was a HEAD or not.
  void begin(bool to_head);

  /// Takes what it can of `bytes`, which start where the last call stopped taking, and says how
  /// much. What it leaves must come again with more behind it.
  std::size_t feed(std::string_view bytes);

  /// The server closed its side: the end of some answers, the failure of others.
  void end_of_input();

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] bool any_bytes() const noexcept { return any_bytes_; }
  [[nodiscard]] bool keep_alive() const noexcept { return keep_alive_; }  // kDone only

 private:
  class Beast final : public boost::beast::http::basic_parser<false> {
   public:
    Beast(ResponseParser& owner, bool to_head);

   private:
    using Text = boost::beast::string_view;
    using Failure = boost::beast::error_code;

    void on_request_impl(boost::beast::http::verb, Text, Text, int, Failure&) override {}
    void on_response_impl(int status, Text reason, int version, Failure& failure) override;
    void on_field_impl(boost::beast::http::field, Text, Text, Failure&) override {}
    void on_header_impl(Failure& failure) override;
    void on_body_init_impl(const boost::optional<std::uint64_t>&, Failure&) override {}
    std::size_t on_body_impl(Text bytes, Failure& failure) override;
    void on_chunk_header_impl(std::uint64_t, Text, Failure&) override {}
    std::size_t on_chunk_body_impl(std::uint64_t left, Text bytes, Failure& failure) override;
    void on_finish_impl(Failure&) override {}

    ResponseParser& owner_;
  };

  [[nodiscard]] bool interim() const noexcept { return status_ >= 100 && status_ < 200; }
  void stop(boost::beast::error_code& failure);
  void take_end_of_message();

  ResponseSink& sink_;
  std::optional<Beast> beast_;
  State state_ = State::kDone;
  bool to_head_ = false;
  bool any_bytes_ = false;
  bool keep_alive_ = false;
  int status_ = 0;
};

}  // namespace penstock::net
