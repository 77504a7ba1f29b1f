#include "text/ascii_bpe.h"

#include <gguf.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <string>

#include "text/ascii.h"
#include "text/model_file.h"

namespace penstock::text {
namespace {

bool is_other(char c) { return !is_letter(c) && !is_digit(c) && !is_space(c); }

/// GPT-2's spelling of an ASCII byte in its vocabulary: printable ones as they are, the others as
/// the characters from U+0100 on, in order; 0x7F comes after the 33 below '!'.
std::string spell(char c) {
  if (c > ' ' && c < 0x7F) return {c};
  const int code_point = 0x100 + (c == 0x7F ? 33 : c);
  return {static_cast<char>(0xC0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

std::size_t contraction(std::string_view text) {
  if (text.size() >= 2 && std::string_view("stmd").find(text[1]) != std::string_view::npos)
    return 2;
  if (text.size() < 3) return 0;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

template <class Is>
std::size_t run(std::string_view text, std::size_t from, Is is) {
  while (from < text.size() && is(text[from])) ++from;
  return from;
}

/// Bytes of the first word of `text`, as the pattern
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ cuts it.
std::size_t first_word(std::string_view text) {
  if (text[0] == '\'') {
    if (const std::size_t n = contraction(text); n != 0) return n;
  }
  const std::size_t start = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  if (is_letter(text[start])) return run(text, start, is_letter);
  if (is_digit(text[start])) return run(text, start, is_digit);
  if (is_other(text[start])) return run(text, start, is_other);
  const std::size_t end = run(text, 0, is_space);
  // White space before something else leaves its last character to that.
  return end == text.size() || end == 1 ? end : end - 1;
}

}  // namespace

std::unique_ptr<const AsciiBpe> AsciiBpe::open(const ModelFile& model, const llama_vocab* vocab) {
  const std::string pre = model.metadata("tokenizer.ggml.pre");
  constexpr std::array<std::string_view, 3> kSplitting = {"smollm", "starcoder", "refact"};
  const bool splits = std::ranges::find(kSplitting, pre) != kSplitting.end();
  if (!splits && pre != "gpt-2") return nullptr;

  std::unordered_map<std::string_view, Token> by_spelling;
  for (Token t = 0; t < llama_vocab_n_tokens(vocab); ++t)
    by_spelling.emplace(llama_vocab_get_text(vocab, t), t);

  std::unique_ptr<AsciiBpe> bpe(new AsciiBpe());
  bpe->splits_digits_ = splits;
  for (int c = 0; c < 128; ++c) {
    const auto found = by_spelling.find(spell(static_cast<char>(c)));
    bpe->byte_tokens_[c] = found == by_spelling.end() ? kNoToken : found->second;
  }
  const std::unique_ptr<gguf_context, void (*)(gguf_context*)> file(
      gguf_init_from_file(model.path().c_str(), {.no_alloc = true, .ctx = nullptr}), gguf_free);
  if (file == nullptr) return nullptr;
  const std::int64_t key = gguf_find_key(file.get(), "tokenizer.ggml.merges");
  if (key < 0 || gguf_get_arr_type(file.get(), key) != GGUF_TYPE_STRING) return nullptr;
  const std::size_t count = gguf_get_arr_n(file.get(), key);
  bpe->merges_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view merge = gguf_get_arr_str(file.get(), key, i);
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) return nullptr;
    const auto left = by_spelling.find(merge.substr(0, space));
    const auto right = by_spelling.find(merge.substr(space + 1));
    const std::string both =
        std::string(merge.substr(0, space)) + std::string(merge.substr(space + 1));
    const auto joined = by_spelling.find(both);
    if (left == by_spelling.end() || right == by_spelling.end() || joined == by_spelling.end())
      return nullptr;
    bpe->merges_.emplace(pair_key(left->second, right->second),
                         Merge{static_cast<std::uint32_t>(i), joined->second});
  }
  return bpe;
}

bool AsciiBpe::encode(std::string_view text, std::vector<Token>& out) const {
  if (text.size() > kTextBytesMax) return false;
  const auto unknown = [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte >= 128 || byte_tokens_[byte] == kNoToken;
  };
  if (std::ranges::any_of(text, unknown)) return false;
  if (!splits_digits_) {
    encode_part(text, out);
    return true;
  }
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (!is_digit(text[i])) continue;
    encode_part(text.substr(start, i - start), out);
    out.push_back(byte_tokens_[static_cast<unsigned char>(text[i])]);
    start = i + 1;
  }
  encode_part(text.substr(start), out);
  return true;
}

void AsciiBpe::encode_part(std::string_view part, std::vector<Token>& out) const {
  while (!part.empty()) {
    const std::size_t n = first_word(part);
    merge_word(part.substr(0, n), out);
    part.remove_prefix(n);
  }
}

/// Joins the pair of lowest rank, the leftmost of several, until none is left.
void AsciiBpe::merge_word(std::string_view word, std::vector<Token>& out) const {
  std::array<Token, kTextBytesMax> symbols;
  std::size_t count = word.size();
  for (std::size_t i = 0; i < count; ++i)
    symbols[i] = byte_tokens_[static_cast<unsigned char>(word[i])];
  while (count > 1) {
    const Merge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      const auto found = merges_.find(pair_key(symbols[i], symbols[i + 1]));
      if (found != merges_.end() && (best == nullptr || found->second.rank < best->rank)) {
        best = &found->second;
        at = i;
      }
    }
    if (best == nullptr) break;
    symbols[at] = best->token;
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 2,
              symbols.begin() + static_cast<std::ptrdiff_t>(count),
              symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    --count;
  }
  out.insert(out.end(), symbols.begin(), symbols.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace penstock::text
