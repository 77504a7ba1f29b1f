#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace penstock::kv {

/// A run of placeholder tokens that stands for one image, sound or video: positions [`first`,
/// `first` + `tokens`) of a prompt, `tokens` > 0, and what it is (media_hash()).
struct MediaRun {
  std::size_t first = 0;
  std::size_t tokens = 0;
  std::uint64_t hash = 0;
};

/// What an engine calls a medium (`mm_hash`, an identifier) as 64 bits, as Dynamo does: the first
/// 16 digits of 64 hexadecimal ones, else XXH3-64 of the text.
[[nodiscard]] std::uint64_t media_hash(std::string_view id);

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
  /// `media`: in the prompt's order, apart from each other. A block that one reaches into is hashed
  /// as Dynamo's canonical frames of 13 bytes a position: 0, token (u32), 0 (u64); or within a run
  /// 1, place in the run (u32), what it is (u64). So its placeholders' ids are no part of it, and
  /// what stands there, and from where on, is. Other blocks are hashed as if there were no media.
  void chain(std::span<const Token> tokens, std::size_t block_tokens,
             std::vector<std::uint64_t>& out, std::span<const MediaRun> media = {}) const;

  [[nodiscard]] std::uint64_t seed() const { return seed_; }

 private:
  [[nodiscard]] std::uint64_t block_with_media(std::span<const Token> tokens, std::size_t first,
                                               std::span<const MediaRun> media) const;

  static constexpr std::size_t kSecretBytes = 192;
  std::uint64_t seed_;
  // XXH3 makes this from the seed for each input over 240 bytes; we do it once.
  alignas(64) unsigned char secret_[kSecretBytes];
};

/// Dynamo's sequence hashes, which its own engines use as names of blocks: the first block's is its
/// local hash, each next one XXH3-64(le64(before) || le64(local), seed 1337).
void sequence_hashes(std::span<const std::uint64_t> locals, std::vector<std::uint64_t>& out);

}  // namespace penstock::kv
