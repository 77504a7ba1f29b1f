#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "net/internal/chunk_decoder.h"
#include "net/internal/header_scanner.h"

namespace penstock::net {

/// Hears what a ResponseParser finds.
class ResponseSink {
 public:
  virtual ~ResponseSink() = default;
  /// Both say whether to go on; false ends the parsing with State::kStopped.
  [[nodiscard]] virtual bool on_head(int status) = 0;
  [[nodiscard]] virtual bool on_body_piece(std::string_view bytes) = 0;  // never empty
};

/// Turns bytes into the answer to one request, interim (1xx) answers left out. Knows no socket.
/// Not thread safe. Beast reads the header, as in RequestParser.
///
/// Invariant: how the input is split changes only how the body is cut in pieces.
class ResponseParser final {
 public:
  enum class State : std::uint8_t { kHeader, kBody, kDone, kFailed, kStopped };

  static constexpr std::size_t kHeaderBytesMax = 64 * 1024;

  explicit ResponseParser(ResponseSink& sink) noexcept : sink_(sink) {}

  /// The next bytes begin the answer to a request, which was a HEAD or not.
  void begin(bool to_head) noexcept;

  /// Takes what it can of `bytes`, which start where the last call stopped taking, and says how
  /// much. What it leaves must come again with more behind it.
  std::size_t feed(std::string_view bytes);

  /// The server closed its side: the end of some answers, the failure of others.
  void end_of_input() noexcept;

  [[nodiscard]] State state() const noexcept { return state_; }
  [[nodiscard]] bool any_bytes() const noexcept { return any_bytes_; }
  [[nodiscard]] bool keep_alive() const noexcept { return keep_alive_; }  // kDone only

 private:
  enum class Body : std::uint8_t { kCounted, kChunked, kToEnd };

  std::size_t feed_header(std::string_view bytes);
  std::size_t feed_body(std::string_view bytes);
  void take_header(std::string_view header);
  void deliver(std::string_view bytes);

  ResponseSink& sink_;
  HeaderScanner scanner_;
  ChunkDecoder chunks_;
  State state_ = State::kDone;
  Body body_ = Body::kCounted;
  bool to_head_ = false;
  bool any_bytes_ = false;
  bool keep_alive_ = false;
  std::uint64_t body_left_ = 0;  // kCounted: declared and not yet received
};

}  // namespace penstock::net
