#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace penstock::net {

/// Takes the chunked coding (RFC 9112, 7.1) off a body. Extensions and trailers are passed over.
/// Holds no bytes back and knows no socket. Not thread safe.
///
/// Invariant: how the input is split changes only how the body is cut in pieces.
class ChunkDecoder final {
 public:
  enum class State : std::uint8_t {
    kSize,       // the digits of a chunk's size
    kSizeSpace,  // blanks behind them
    kExtension,
    kSizeLf,
    kData,
    kDataCr,
    kDataLf,
    kTrailerStart,  // of a line
    kTrailer,
    kTrailerLf,
    kEndLf,
    kDone,
    kFailed,
  };

  /// A size line, and all trailers together, may be that long.
  static constexpr std::size_t kLineBytesMax = 8 * 1024;

  /// Takes of `bytes` up to the end of a size line, or of a piece of the body, which it sets `data`
  /// to (a part of `bytes`, else empty), or all there is, and says how much it took. Stopping at
  /// size lines lets a chunk that is too large be refused before any of it is stored.
  std::size_t feed(std::string_view bytes, std::string_view& data);

  [[nodiscard]] State state() const noexcept { return state_; }

  /// In kData: announced by the chunk's size line and not yet received.
  [[nodiscard]] std::uint64_t chunk_left() const noexcept { return chunk_left_; }

 private:
  [[nodiscard]] State next(char c) noexcept;
  [[nodiscard]] State next_in_size(char c) noexcept;

  State state_ = State::kSize;
  std::uint64_t chunk_left_ = 0;
  std::size_t line_bytes_ = 0;  // of the size line or the trailers so far
  int digits_ = 0;
};

}  // namespace penstock::net
