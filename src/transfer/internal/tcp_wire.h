#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "transfer/internal/wire.h"
#include "transfer/transfer.h"

/// The TCP protocol: three messages in which each side proves that it knows the secret, then
/// requests for runs of blocks and their answers, in order, as many under way as one likes.
namespace penstock::transfer::wire {

inline constexpr std::uint32_t kBlocksMax = 256;  // of one request

using Nonce = std::array<std::byte, 32>;
using Proof = std::array<std::byte, 32>;  // HMAC-SHA256

struct Challenge {  // owner to reader
  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t unused = 0;
  Nonce nonce{};
};
struct Response {  // reader to owner
  std::uint64_t magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t unused = 0;
  Nonce nonce{};
  Compatibility compatibility;
  Proof proof{};
};
struct Verdict {  // owner to reader
  Answer answer = Answer::kWelcome;
  std::uint32_t unused = 0;
  Offer offer;
  Proof proof{};  // zeros unless welcome
};

[[nodiscard]] Proof reader_proof(std::string_view secret, const Challenge& challenge,
                                 const Response& response);
[[nodiscard]] Proof owner_proof(std::string_view secret, const Challenge& challenge,
                                const Response& response, const Verdict& verdict);
[[nodiscard]] bool equal(const Proof& a, const Proof& b) noexcept;  // in constant time
Result<Nonce> draw_nonce();

/// Followed by `blocks` positions in the grant's list.
struct Request {
  std::uint32_t blocks = 0;
  std::uint32_t first_part = 0;
  std::uint32_t last_part = 0;
  GrantId grant;
};
/// What the owner says of one block: status kPending: here it comes. All of a request's answers go
/// first, then the checksums of those that come, then their parts.
struct BlockAnswer {
  BlockKey key;
  std::uint32_t generation = 0;
  std::uint32_t length_bytes = 0;
  BlockStatus status = BlockStatus::kPending;
};

/// Memory to send or receive in order; neighbours become one piece.
class Pieces final {
 public:
  void reserve(std::size_t pieces) { pieces_.reserve(pieces); }
  void clear() noexcept {
    pieces_.clear();
    first_ = 0;
  }
  void add(const void* data, std::size_t size_bytes);
  [[nodiscard]] std::span<iovec> left() noexcept { return std::span(pieces_).subspan(first_); }
  /// Takes `size_bytes` off the front.
  void advance(std::size_t size_bytes) noexcept;

 private:
  std::vector<iovec> pieces_;  // keeps its memory from request to request
  std::size_t first_ = 0;
};

}  // namespace penstock::transfer::wire
