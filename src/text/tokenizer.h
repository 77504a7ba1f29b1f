#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/ascii_bpe.h"
#include "text/model_file.h"

struct llama_vocab;

namespace penstock::text {

/// A run of text on its way to tokens. In trusted text (what a chat template wrote) the spelling of
/// a special token becomes that token; in untrusted text (what a user wrote) it stays text.
/// A special token is never recognised across two pieces; ordinary tokens do form across them.
struct Piece {
  std::string_view text;
  bool trusted = false;
};

/// Remembers what was tokenized before: short runs between words, and the insides of long pieces
/// (the turns of a conversation that grows). Bounded by construction; the oldest goes first.
/// Belongs to one thread.
class TokenizerCache final {
 public:
  explicit TokenizerCache(std::size_t segment_bytes_max = 4 << 20);

  struct Stats {
    std::uint64_t word_hits = 0;
    std::uint64_t word_misses = 0;
    std::uint64_t segment_hits = 0;
    std::uint64_t segment_misses = 0;
    std::size_t segment_bytes = 0;  // held now, <= segment_bytes_max
  };
  [[nodiscard]] const Stats& stats() const noexcept { return stats_; }

 private:
  friend class Tokenizer;

  struct Word {  // one cache line; text and tokens compared in full, so a hash never decides alone
    static constexpr std::size_t kTextBytesMax = 30;
    static constexpr std::size_t kTokensMax = 8;
    std::uint8_t text_bytes = 0;  // 0: empty slot
    std::uint8_t token_count = 0;
    char text[kTextBytesMax];
    Token tokens[kTokensMax];
  };
  static_assert(sizeof(Word) == 64);
  static constexpr std::size_t kWordSlots = 1 << 14;  // 1 MiB

  struct SegmentKey {
    std::uint64_t high, low;
    friend bool operator==(const SegmentKey&, const SegmentKey&) = default;
  };
  struct SegmentKeyHash {
    std::size_t operator()(const SegmentKey& k) const noexcept { return k.low; }
  };
  struct Segment {
    SegmentKey key;
    std::vector<std::uint16_t> narrow;  // its tokens, if all of them are below 2^16
    std::vector<Token> wide;            // else
  };

  /// Appends a segment's tokens to `out`, if it is known.
  bool find_segment(const SegmentKey& key, std::vector<Token>& out);
  void keep_segment(const SegmentKey& key, std::span<const Token> tokens);

  std::vector<Word> words_;
  std::list<Segment> segments_;  // most recent first
  std::unordered_map<SegmentKey, std::list<Segment>::iterator, SegmentKeyHash> by_key_;
  std::size_t segment_bytes_max_;
  std::uint64_t seed_;  // drawn at random: nobody outside can aim at a collision
  Stats stats_;
};

/// A model's tokenizer: llama.cpp's, called on as little text as possible. Text is cut where no
/// token can reach across (before a lone space between two printable ASCII characters; checked
/// against the uncut result when the model is opened, and off for vocabularies where it does not
/// hold), and what lies between two cuts is looked up before it is computed.
/// Immutable after open(); any thread, each with its own cache.
class Tokenizer final {
 public:
  static Result<std::unique_ptr<const Tokenizer>> open(std::shared_ptr<const ModelFile> model);

  /// Appends the tokens of the joined pieces. `add_special`: with the model's beginning and end
  /// tokens where its vocabulary asks for them.
  void encode(std::span<const Piece> pieces, bool add_special, TokenizerCache& cache,
              std::vector<Token>& out) const;

  /// The same, computed by llama.cpp on the whole text (trusted), without cuts or caches.
  [[nodiscard]] std::vector<Token> encode_whole(std::string_view text, bool add_special,
                                                bool trusted) const;

  /// The bytes a token stands for; empty for special tokens. May be a part of a character.
  [[nodiscard]] std::string_view bytes(Token token) const noexcept;
  /// The same, but with the spelling of special tokens ("<|im_end|>").
  [[nodiscard]] std::string spelling(Token token) const;

  [[nodiscard]] bool valid(Token token) const noexcept {
    return token >= 0 && static_cast<std::size_t>(token) + 1 < offsets_.size();
  }
  [[nodiscard]] bool is_end_of_generation(Token token) const noexcept;
  [[nodiscard]] bool is_special(Token token) const noexcept;
  /// No token stands for more bytes of text than this.
  [[nodiscard]] std::size_t token_bytes_max() const noexcept { return token_bytes_max_; }
  [[nodiscard]] std::uint32_t size() const noexcept {
    return static_cast<std::uint32_t>(offsets_.size() - 1);
  }
  /// Whether `text` holds the spelling of a special token.
  [[nodiscard]] bool holds_special(std::string_view text) const;
  /// Bytes of the special token that is spelled at `position`, or 0.
  [[nodiscard]] std::size_t special_length(std::string_view text, std::size_t position) const;
  [[nodiscard]] bool cuts_text() const noexcept { return cuts_; }
  [[nodiscard]] const ModelFile& model() const noexcept { return *model_; }

 private:
  explicit Tokenizer(std::shared_ptr<const ModelFile> model);

  struct Special {
    std::string text;
    Token token;
  };

  void index_vocabulary();
  [[nodiscard]] bool cutting_holds() const;
  [[nodiscard]] std::size_t count_specials(std::string_view text) const;
  const Special* special_at(std::string_view text, std::size_t position) const;
  void encode_plain(std::string_view text, TokenizerCache& cache, std::vector<Token>& out) const;
  void encode_cut(std::string_view text, TokenizerCache& cache, std::vector<Token>& out) const;
  void encode_word(std::string_view text, TokenizerCache& cache, std::vector<Token>& out) const;
  void encode_run(std::string_view text, std::vector<Token>& out) const;
  void encode_raw(std::string_view text, bool trusted, std::vector<Token>& out) const;

  std::shared_ptr<const ModelFile> model_;
  const llama_vocab* vocab_;
  std::string pool_;                    // every token's bytes, one after another
  std::vector<std::uint32_t> offsets_;  // token -> start in pool_; one more than tokens
  std::vector<bool> special_;
  std::vector<Special> specials_;  // longest first
  bool special_first_byte_[256] = {};
  std::size_t token_bytes_max_ = 0;
  bool strips_around_specials_ =
      false;  // some special token eats white space: leave it to llama.cpp
  bool cuts_ = false;
  std::unique_ptr<const AsciiBpe> bpe_;  // null: all is left to llama.cpp
};

}  // namespace penstock::text
