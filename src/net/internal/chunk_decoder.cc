#include "net/internal/chunk_decoder.h"

#include <algorithm>

namespace penstock::net {
namespace {

constexpr int kDigitsMax = 16;  // of a 64-bit number

int hex_value(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool is_text(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return (byte >= 0x20 && byte != 0x7f) || c == '\t';
}

}  // namespace

std::size_t ChunkDecoder::feed(std::string_view bytes, std::string_view& data) {
  data = {};
  std::size_t taken = 0;
  while (taken < bytes.size() && state_ != State::kDone && state_ != State::kFailed) {
    if (state_ != State::kData) {
      state_ = ++line_bytes_ > kLineBytesMax ? State::kFailed : next(bytes[taken]);
      ++taken;
      if (state_ == State::kData) return taken;
      continue;
    }
    const auto size =
        static_cast<std::size_t>(std::min<std::uint64_t>(chunk_left_, bytes.size() - taken));
    data = bytes.substr(taken, size);
    chunk_left_ -= size;
    if (chunk_left_ == 0) state_ = State::kDataCr;
    return taken + size;
  }
  return taken;
}

ChunkDecoder::State ChunkDecoder::next(char c) noexcept {
  switch (state_) {
    case State::kSize: return next_in_size(c);
    case State::kSizeSpace:
      if (c == ' ' || c == '\t') return State::kSizeSpace;
      if (c == ';') return State::kExtension;
      return c == '\r' ? State::kSizeLf : State::kFailed;
    case State::kExtension:
      if (c == '\r') return State::kSizeLf;
      return is_text(c) ? State::kExtension : State::kFailed;
    case State::kSizeLf:
      line_bytes_ = 0;
      digits_ = 0;
      if (c != '\n') return State::kFailed;
      return chunk_left_ == 0 ? State::kTrailerStart : State::kData;
    case State::kDataCr: return c == '\r' ? State::kDataLf : State::kFailed;
    case State::kDataLf: return c == '\n' ? State::kSize : State::kFailed;
    case State::kTrailerStart:
    case State::kTrailer:
      if (c == '\r') return state_ == State::kTrailer ? State::kTrailerLf : State::kEndLf;
      return is_text(c) ? State::kTrailer : State::kFailed;
    case State::kTrailerLf: return c == '\n' ? State::kTrailerStart : State::kFailed;
    case State::kEndLf: return c == '\n' ? State::kDone : State::kFailed;
    case State::kData:
    case State::kDone:
    case State::kFailed: break;  // feed() does not ask in these
  }
  return State::kFailed;
}

ChunkDecoder::State ChunkDecoder::next_in_size(char c) noexcept {
  if (const int digit = hex_value(c); digit >= 0) {
    if (++digits_ > kDigitsMax) return State::kFailed;
    chunk_left_ = chunk_left_ * 16 + static_cast<std::uint64_t>(digit);
    return State::kSize;
  }
  if (digits_ == 0) return State::kFailed;
  if (c == ' ' || c == '\t') return State::kSizeSpace;
  if (c == ';') return State::kExtension;
  return c == '\r' ? State::kSizeLf : State::kFailed;
}

}  // namespace penstock::net
