#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"

struct llama_vocab;

namespace penstock::text {

class ModelFile;

/// Byte-level BPE of short ASCII text for vocabularies with GPT-2's pre-tokenizer, where llama.cpp
/// spends most of a call on preparing its regular expressions. Gives llama.cpp's tokens (compared
/// in tests, and on a sample when a model is opened). Immutable, any thread.
class AsciiBpe final {
 public:
  /// Longer text costs the square of its longest word: leave it to llama.cpp.
  static constexpr std::size_t kTextBytesMax = 128;

  /// Null when the model's pre-tokenizer is another, or its merges cannot be read.
  static std::unique_ptr<const AsciiBpe> open(const ModelFile& model, const llama_vocab* vocab);

  /// Appends the tokens of `text` and returns true; false, and nothing is appended, when it is too
  /// long, not all ASCII, or has a byte for which the vocabulary has no token.
  bool encode(std::string_view text, std::vector<Token>& out) const;

 private:
  struct Merge {
    std::uint32_t rank;
    Token token;
  };
  static std::uint64_t pair_key(Token left, Token right) noexcept {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }

  void encode_part(std::string_view part,
                   std::vector<Token>& out) const;  // without digits to split
  void merge_word(std::string_view word, std::vector<Token>& out) const;

  static constexpr Token kNoToken = -1;
  bool splits_digits_ = false;  // every digit is a word of its own
  Token byte_tokens_[128] = {};
  std::unordered_map<std::uint64_t, Merge> merges_;
};

}  // namespace penstock::text
