#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace penstock::kv {

/// Hashes blocks of tokens wherever they stand in a prompt, as Dynamo does: XXH3-64 over the
/// block's token ids as little-endian u32, seeded with 1337 + XXH3(adapter, 0) + XXH3(salt, 1),
/// where an empty adapter or salt adds nothing. So adapter and salt are part of every block's
/// identity in the prefix index. A value; thread: any.
class LocalHasher {
 public:
  explicit LocalHasher(std::string_view adapter = {}, std::string_view salt = {});

  /// Hash of exactly these tokens.
  [[nodiscard]] std::uint64_t block(std::span<const Token> tokens) const;

  /// Appends the hash of each full block of `block_tokens` (> 0) to `out`; the rest is left out.
  void chain(std::span<const Token> tokens, std::size_t block_tokens,
             std::vector<std::uint64_t>& out) const;

  [[nodiscard]] std::uint64_t seed() const { return seed_; }

 private:
  static constexpr std::size_t kSecretBytes = 192;
  std::uint64_t seed_;
  // XXH3 makes this from the seed for each input over 240 bytes; we do it once.
  alignas(64) unsigned char secret_[kSecretBytes];
};

/// Dynamo's sequence hashes, which its own engines use as names of blocks: the first block's is its
/// local hash, each next one XXH3-64(le64(before) || le64(local), seed 1337).
void sequence_hashes(std::span<const std::uint64_t> locals, std::vector<std::uint64_t>& out);

}  // namespace penstock::kv
