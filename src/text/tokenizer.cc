#include "text/tokenizer.h"

#include <fmt/format.h>
#include <llama.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <random>

#include "base/check.h"
#include "base/log.h"

namespace penstock::text {
namespace {

constexpr std::size_t kSegmentBytesMin = 64;  // below, word look-ups are as fast
constexpr std::size_t kNone = std::string_view::npos;

/// Byte-level BPE vocabularies whose pre-tokenizer never lets a token reach from a printable
/// character over a lone space (each of its patterns may begin with one space and holds none).
constexpr std::array<std::string_view, 12> kCuttable = {
    "gpt-2",     "smollm", "llama-bpe", "llama3", "llama-v3", "qwen2",
    "starcoder", "refact", "olmo",      "dbrx",   "gpt-4o",   "tekken"};

bool printable(char c) { return c > 0x20 && c < 0x7f; }

/// First position > 0 in text[from..] that may begin a new run, or kNone. text[cut] is a space.
std::size_t next_cut(std::string_view text, std::size_t from) {
  while (from < text.size()) {
    const void* hit = std::memchr(text.data() + from, ' ', text.size() - from);
    if (hit == nullptr) return kNone;
    const auto at = static_cast<std::size_t>(static_cast<const char*>(hit) - text.data());
    if (at > 0 && at + 1 < text.size() && printable(text[at - 1]) && printable(text[at + 1])) {
      return at;
    }
    from = at + 1;
  }
  return kNone;
}

std::size_t last_cut(std::string_view text) {
  for (std::size_t at = text.size() < 2 ? 0 : text.size() - 2; at > 0; --at) {
    if (text[at] == ' ' && printable(text[at - 1]) && printable(text[at + 1])) return at;
  }
  return kNone;
}

/// Prose, code, numbers, punctuation, other scripts and white space: the sample on which cutting
/// is compared with not cutting.
std::string sample_text() {
  std::string text =
      "It's the 3rd of May, 2026; they'll pay $1,234.56 (or 99%) - won't they? "
      "for (int i = 0; i < n; ++i) { sum += a[i] * 0x1F; }  // two  spaces\n\n"
      "\tif x == 'y' : return {\"k\" : [1, 2, 3]}\r\n e.g. http://a.b/c?d=e&f=g #tag @me _x_ \n"
      "Grüße aus Köln, señor! 東京 は 大きい 。 Привет , мир ! مرحبا 1 2 3 👍🏽 ok \u00a0 nbsp "
      "\u3000 wide "
      "I'd I'm we've you're he'll it 's THE QUICK BROWN FOX'S don 't 12345678 a1b2 c3 3d ... --- ";
  std::mt19937 random(7);
  static constexpr std::string_view kAlphabet = "ab Z.9'\n ,(\t-s \"tre";
  for (int i = 0; i < 4000; ++i) text += kAlphabet[random() % kAlphabet.size()];
  return text;
}

}  // namespace

TokenizerCache::TokenizerCache(std::size_t segment_bytes_max)
    : words_(kWordSlots),
      segment_bytes_max_(segment_bytes_max),
      seed_((static_cast<std::uint64_t>(std::random_device{}()) << 32) | std::random_device{}()) {}

bool TokenizerCache::find_segment(const SegmentKey& key, std::vector<Token>& out) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return false;
  segments_.splice(segments_.begin(), segments_, found->second);
  const Segment& segment = *found->second;
  out.insert(out.end(), segment.narrow.begin(), segment.narrow.end());
  out.insert(out.end(), segment.wide.begin(), segment.wide.end());
  return true;
}

void TokenizerCache::keep_segment(const SegmentKey& key, std::span<const Token> tokens) {
  const auto cost = [](const Segment& s) {
    return sizeof(Segment) + 64 + s.narrow.size() * sizeof(std::uint16_t) +
           s.wide.size() * sizeof(Token);
  };
  Segment segment{.key = key, .narrow = {}, .wide = {}};
  const bool fits = std::ranges::all_of(
      tokens, [](Token t) { return t <= std::numeric_limits<std::uint16_t>::max(); });
  if (fits) {
    segment.narrow.assign(tokens.begin(), tokens.end());
  } else {
    segment.wide.assign(tokens.begin(), tokens.end());
  }
  const std::size_t bytes = cost(segment);
  if (bytes > segment_bytes_max_ / 2) return;  // one text must not empty the cache
  while (stats_.segment_bytes + bytes > segment_bytes_max_) {
    stats_.segment_bytes -= cost(segments_.back());
    by_key_.erase(segments_.back().key);
    segments_.pop_back();
  }
  segments_.push_front(std::move(segment));
  by_key_[key] = segments_.begin();
  stats_.segment_bytes += bytes;
}

Tokenizer::Tokenizer(std::shared_ptr<const ModelFile> model)
    : model_(std::move(model)), vocab_(llama_model_get_vocab(model_->handle())) {}

Result<std::unique_ptr<const Tokenizer>> Tokenizer::open(std::shared_ptr<const ModelFile> model) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer(std::move(model)));
  if (llama_vocab_type(tokenizer->vocab_) == LLAMA_VOCAB_TYPE_NONE) {
    return fail(Code::kInvalidArgument, fmt::format("{} has no tokenizer; a text service needs one",
                                                    tokenizer->model_->path()));
  }
  tokenizer->index_vocabulary();
  tokenizer->bpe_ = AsciiBpe::open(tokenizer->model(), tokenizer->vocab_);
  tokenizer->cuts_ = tokenizer->cutting_holds();
  if (!tokenizer->cuts_) log::debug("tokenizer: text is not cut for this vocabulary");
  return tokenizer;
}

void Tokenizer::index_vocabulary() {
  const auto count = static_cast<std::size_t>(llama_vocab_n_tokens(vocab_));
  offsets_.reserve(count + 1);
  special_.resize(count);
  std::string piece(256, '\0');
  for (std::size_t i = 0; i < count; ++i) {
    const auto token = static_cast<Token>(i);
    offsets_.push_back(static_cast<std::uint32_t>(pool_.size()));
    std::int32_t size = llama_token_to_piece(vocab_, token, piece.data(),
                                             static_cast<std::int32_t>(piece.size()), 0, false);
    if (size < 0) {
      piece.resize(static_cast<std::size_t>(-size));
      size = llama_token_to_piece(vocab_, token, piece.data(),
                                  static_cast<std::int32_t>(piece.size()), 0, false);
    }
    if (size > 0) pool_.append(piece, 0, static_cast<std::size_t>(size));
    token_bytes_max_ = std::max(token_bytes_max_, static_cast<std::size_t>(std::max(size, 0)));

    const llama_token_attr attr = llama_vocab_get_attr(vocab_, token);
    const bool is_control = (attr & (LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN)) != 0;
    special_[i] = is_control;
    if (is_control || (attr & LLAMA_TOKEN_ATTR_USER_DEFINED) != 0) {
      const std::string_view text = llama_vocab_get_text(vocab_, token);
      token_bytes_max_ = std::max(token_bytes_max_, text.size());
      if (!text.empty()) specials_.push_back({std::string(text), token});
      if ((attr & (LLAMA_TOKEN_ATTR_LSTRIP | LLAMA_TOKEN_ATTR_RSTRIP)) != 0) {
        strips_around_specials_ = true;
      }
    }
  }
  offsets_.push_back(static_cast<std::uint32_t>(pool_.size()));
  pool_.shrink_to_fit();
  // Other kinds have an unknown token, or join white space: any text may be a token.
  const auto type = llama_vocab_type(vocab_);
  if (type != LLAMA_VOCAB_TYPE_BPE && type != LLAMA_VOCAB_TYPE_SPM) {
    token_bytes_max_ = std::numeric_limits<std::uint32_t>::max();
  }
  std::ranges::stable_sort(
      specials_, [](const Special& a, const Special& b) { return a.text.size() > b.text.size(); });
  for (const Special& s : specials_)
    special_first_byte_[static_cast<unsigned char>(s.text[0])] = true;
}

bool Tokenizer::cutting_holds() const {
  if (llama_vocab_type(vocab_) != LLAMA_VOCAB_TYPE_BPE || strips_around_specials_) return false;
  if (std::ranges::find(kCuttable, model_->metadata("tokenizer.ggml.pre")) == kCuttable.end()) {
    return false;
  }
  for (const Special& s : specials_) {
    if (next_cut(s.text, 0) != kNone) return false;  // a cut would go through a token
  }
  const std::string text = sample_text();
  TokenizerCache cache(0);
  std::vector<Token> cut;
  encode_cut(text, cache, cut);
  return cut == encode_whole(text, false, false);
}

void Tokenizer::encode_run(std::string_view text, std::vector<Token>& out) const {
  if (bpe_ == nullptr || !bpe_->encode(text, out)) encode_raw(text, false, out);
}

const Tokenizer::Special* Tokenizer::special_at(std::string_view text, std::size_t position) const {
  if (!special_first_byte_[static_cast<unsigned char>(text[position])]) return nullptr;
  for (const Special& s : specials_) {
    if (text.substr(position, s.text.size()) == s.text) return &s;
  }
  return nullptr;
}

std::size_t Tokenizer::special_length(std::string_view text, std::size_t position) const {
  const Special* special = special_at(text, position);
  return special == nullptr ? 0 : special->text.size();
}

bool Tokenizer::holds_special(std::string_view text) const {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (special_at(text, i) != nullptr) return true;
  }
  return false;
}

std::size_t Tokenizer::count_specials(std::string_view text) const {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size();) {
    const Special* special = special_at(text, i);
    count += special != nullptr ? 1 : 0;
    i += special != nullptr ? special->text.size() : 1;
  }
  return count;
}

void Tokenizer::encode_raw(std::string_view text, bool trusted, std::vector<Token>& out) const {
  if (text.empty()) return;
  const std::size_t start = out.size();
  const auto size = static_cast<std::int32_t>(text.size());
  std::size_t room = text.size() / 2 + 8;
  while (true) {
    out.resize(start + room);
    const std::int32_t count = llama_tokenize(vocab_, text.data(), size, out.data() + start,
                                              static_cast<std::int32_t>(room), false, trusted);
    if (count >= 0) {
      out.resize(start + static_cast<std::size_t>(count));
      return;
    }
    room = static_cast<std::size_t>(-count);
  }
}

std::vector<Token> Tokenizer::encode_whole(std::string_view text, bool add_special,
                                           bool trusted) const {
  std::vector<Token> tokens(text.size() + 8);
  std::int32_t count =
      llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                     static_cast<std::int32_t>(tokens.size()), add_special, trusted);
  if (count < 0) {
    tokens.resize(static_cast<std::size_t>(-count));
    count =
        llama_tokenize(vocab_, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                       static_cast<std::int32_t>(tokens.size()), add_special, trusted);
  }
  CHECK_GE(count, 0);
  tokens.resize(static_cast<std::size_t>(count));
  return tokens;
}

void Tokenizer::encode_word(std::string_view text, TokenizerCache& cache,
                            std::vector<Token>& out) const {
  using Word = TokenizerCache::Word;
  if (text.size() > Word::kTextBytesMax) {
    encode_run(text, out);
    return;
  }
  const std::uint64_t hash = XXH3_64bits_withSeed(text.data(), text.size(), cache.seed_);
  Word& word = cache.words_[hash % TokenizerCache::kWordSlots];
  if (word.text_bytes == text.size() && std::memcmp(word.text, text.data(), text.size()) == 0) {
    ++cache.stats_.word_hits;
    out.insert(out.end(), word.tokens, word.tokens + word.token_count);
    return;
  }
  ++cache.stats_.word_misses;
  const std::size_t start = out.size();
  encode_run(text, out);
  const std::size_t count = out.size() - start;
  if (count <= Word::kTokensMax) {
    word.text_bytes = static_cast<std::uint8_t>(text.size());
    word.token_count = static_cast<std::uint8_t>(count);
    std::memcpy(word.text, text.data(), text.size());
    std::copy(out.begin() + static_cast<std::ptrdiff_t>(start), out.end(), word.tokens);
  }
}

void Tokenizer::encode_cut(std::string_view text, TokenizerCache& cache,
                           std::vector<Token>& out) const {
  std::size_t start = 0;
  while (start < text.size()) {
    const std::size_t cut = next_cut(text, start + 1);
    const std::size_t end = cut == kNone ? text.size() : cut;
    encode_word(text.substr(start, end - start), cache, out);
    start = end;
  }
}

void Tokenizer::encode_plain(std::string_view text, TokenizerCache& cache,
                             std::vector<Token>& out) const {
  if (!cuts_) {
    encode_raw(text, false, out);
    return;
  }
  encode_cut(text, cache, out);
}

namespace {

/// Collects text between two hard borders (special tokens) from several pieces. While it all lies
/// in one piece nothing is copied.
class Run {
 public:
  void add(std::string_view text) {
    if (text.empty()) return;
    if (size_ == 0) {
      first_ = text;
    } else {
      if (joined_.empty()) joined_.assign(first_);
      joined_.append(text);
    }
    size_ += text.size();
  }
  [[nodiscard]] std::string_view text() const { return joined_.empty() ? first_ : joined_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  void clear() {
    first_ = {};
    joined_.clear();
    size_ = 0;
  }

 private:
  std::string_view first_;
  std::string joined_;
  std::size_t size_ = 0;
};

}  // namespace

void Tokenizer::encode(std::span<const Piece> pieces, bool add_special, TokenizerCache& cache,
                       std::vector<Token>& out) const {
  // Two kinds of vocabulary need llama.cpp to see all of a text: WordPiece puts its own tokens
  // around it, and special tokens that strip spaces reach into what is beside them.
  const bool word_piece = llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_WPM;
  if (word_piece || strips_around_specials_) {
    std::string whole;
    std::size_t meant = 0;
    for (const Piece& p : pieces) {
      whole += p.text;
      if (p.trusted) meant += count_specials(p.text);
    }
    // Only if that makes no special tokens but those that are meant.
    const bool as_meant = count_specials(whole) == meant;
    if (as_meant || word_piece) {
      const std::vector<Token> tokens = encode_whole(whole, add_special, as_meant);
      out.insert(out.end(), tokens.begin(), tokens.end());
      return;
    }
  }
  if (add_special && llama_vocab_get_add_bos(vocab_)) out.push_back(llama_vocab_bos(vocab_));

  Run run;
  const auto flush = [&] {
    if (!run.empty()) encode_plain(run.text(), cache, out);
    run.clear();
  };
  for (const Piece& piece : pieces) {
    std::string_view text = piece.text;
    if (piece.trusted) {
      std::size_t start = 0;
      for (std::size_t i = 0; i < text.size();) {
        const Special* special = special_at(text, i);
        if (special == nullptr) {
          ++i;
          continue;
        }
        run.add(text.substr(start, i - start));
        flush();
        out.push_back(special->token);
        i += special->text.size();
        start = i;
      }
      run.add(text.substr(start));
      continue;
    }
    const std::size_t first = cuts_ && text.size() >= kSegmentBytesMin ? next_cut(text, 1) : kNone;
    const std::size_t last = first == kNone ? kNone : last_cut(text);
    if (first == kNone || last <= first) {
      run.add(text);
      continue;
    }
    // The inside of a long piece depends on nothing around it: look it up as a whole.
    run.add(text.substr(0, first));
    flush();
    const std::string_view inside = text.substr(first, last - first);
    const XXH128_hash_t hash = XXH3_128bits_withSeed(inside.data(), inside.size(), cache.seed_);
    const TokenizerCache::SegmentKey key{hash.high64, hash.low64};
    if (cache.find_segment(key, out)) {
      ++cache.stats_.segment_hits;
    } else {
      ++cache.stats_.segment_misses;
      const std::size_t start = out.size();
      encode_cut(inside, cache, out);
      cache.keep_segment(key, std::span(out).subspan(start));
    }
    run.add(text.substr(last));
  }
  flush();
  if (add_special && llama_vocab_get_add_eos(vocab_)) out.push_back(llama_vocab_eos(vocab_));
}

std::string_view Tokenizer::bytes(Token token) const noexcept {
  if (!valid(token)) return {};
  const auto i = static_cast<std::size_t>(token);
  return std::string_view(pool_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
}

std::string Tokenizer::spelling(Token token) const {
  if (!valid(token)) return {};
  if (is_special(token)) return llama_vocab_get_text(vocab_, token);
  return std::string(bytes(token));
}

bool Tokenizer::is_end_of_generation(Token token) const noexcept {
  return llama_vocab_is_eog(vocab_, token);
}

bool Tokenizer::is_special(Token token) const noexcept {
  return valid(token) && special_[static_cast<std::size_t>(token)];
}

}  // namespace penstock::text
