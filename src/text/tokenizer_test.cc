#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <llama.h>

#include <random>

#include "text/demo_model.h"

namespace penstock::text {
namespace {

class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    PENSTOCK_NEED_DEMO_MODEL();
    Result<std::unique_ptr<const Tokenizer>> opened = Tokenizer::open(demo_vocabulary());
    ASSERT_TRUE(opened.has_value());
    tokenizer_ = std::move(*opened);
  }

  std::vector<Token> encode(std::vector<Piece> pieces) {
    std::vector<Token> out;
    tokenizer_->encode(pieces, true, cache_, out);
    return out;
  }

  std::unique_ptr<const Tokenizer> tokenizer_;
  TokenizerCache cache_;
};

std::string random_text(std::mt19937& random, std::size_t size) {
  static const std::vector<std::string> kParts = {
      "the",  " quick", " Fox",   "'s", " 12", "3.5",    ", ",       ". ", "\n",     "\n\n",
      "  ",   " ",      "\t",     "é",  "東",  "京 ",    " ñ",       "👍", "\u00a0", " a",
      " b c", "x = y;", "(",      ") ", "-",   "don't ", "<",        "|",  "im",     "start",
      "ABC ", "\r\n",   "\u3000", "_",  "::",  "0x1F ",  "  indent", "…"};
  std::string text;
  while (text.size() < size) text += kParts[random() % kParts.size()];
  return text;
}

TEST_F(TokenizerTest, CuttingGivesWhatLlamaGives) {
  ASSERT_TRUE(tokenizer_->cuts_text());
  std::mt19937 random(11);
  for (int i = 0; i < 400; ++i) {
    const std::string text = random_text(random, 1 + random() % 3000);
    EXPECT_EQ(encode({{text, false}}), tokenizer_->encode_whole(text, true, false)) << text;
  }
  EXPECT_GT(cache_.stats().word_hits, 0u);
}

TEST_F(TokenizerTest, AsciiWordsAreMergedAsLlamaMergesThem) {
  const auto bpe =
      AsciiBpe::open(*demo_vocabulary(), llama_model_get_vocab(demo_vocabulary()->handle()));
  ASSERT_NE(bpe, nullptr);
  std::mt19937 random(15);
  static constexpr std::string_view kLetters = "etaoinshrdlu ETA.,'\n\t-()12_\x01\x7f\x04  ";
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (std::size_t n = random() % 40; n > 0; --n) text += kLetters[random() % kLetters.size()];
    std::vector<Token> tokens;
    const bool has_token_for_all = text.find('\x04') == std::string::npos;
    ASSERT_EQ(bpe->encode(text, tokens), has_token_for_all);
    if (!has_token_for_all) continue;
    ASSERT_EQ(tokens, tokenizer_->encode_whole(text, false, false)) << testing::PrintToString(text);
  }
  std::vector<Token> none;
  EXPECT_FALSE(bpe->encode("caf\xC3\xA9", none));
  EXPECT_FALSE(bpe->encode(std::string(AsciiBpe::kTextBytesMax + 1, 'a'), none));
  EXPECT_TRUE(none.empty());
}

TEST_F(TokenizerTest, AnyWayToCutTextIntoPiecesGivesTheSameTokens) {
  std::mt19937 random(12);
  for (int i = 0; i < 200; ++i) {
    const std::string text = random_text(random, 10 + random() % 2500);
    const std::vector<Token> expected = tokenizer_->encode_whole(text, true, false);
    std::vector<Piece> pieces;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t size = std::min<std::size_t>(1 + random() % 1500, text.size() - at);
      pieces.push_back({std::string_view(text).substr(at, size), random() % 2 == 0});
      at += size;
    }
    EXPECT_EQ(encode(pieces), expected) << text;
  }
}

TEST_F(TokenizerTest, TemplateTextMakesSpecialTokensAndUserTextDoesNot) {
  const std::string text = "<|im_start|>user\nHi <|im_end|> there<|im_end|>\n<|endoftext|>";
  EXPECT_EQ(encode({{text, true}}), tokenizer_->encode_whole(text, true, true));

  const std::vector<Token> mixed =
      encode({{"<|im_start|>user\n", true}, {"<|im_end|>", false}, {"<|im_end|>\n", true}});
  std::size_t specials = 0;
  for (const Token t : mixed) specials += tokenizer_->is_special(t) ? 1 : 0;
  EXPECT_EQ(specials, 2u);

  // Not across pieces either.
  const std::vector<Token> split = encode({{"<|im_", true}, {"end|>", true}});
  for (const Token t : split) EXPECT_FALSE(tokenizer_->is_special(t));
}

TEST_F(TokenizerTest, LongPiecesAreRememberedWithinTheBudget) {
  TokenizerCache small(256 << 10);
  std::mt19937 random(13);
  std::string repeated;
  for (int i = 0; i < 200; ++i) {
    std::string text = random_text(random, 20000);
    if (i == 100) repeated = text;
    std::vector<Token> out;
    tokenizer_->encode(std::vector<Piece>{{text, false}}, false, small, out);
    EXPECT_LE(small.stats().segment_bytes, 256u << 10);
    if (i == 100) {
      std::vector<Token> again;
      const std::uint64_t hits = small.stats().segment_hits;
      tokenizer_->encode(std::vector<Piece>{{"x", true}, {repeated, false}}, false, small, again);
      EXPECT_EQ(small.stats().segment_hits, hits + 1);
      EXPECT_EQ(again, tokenizer_->encode_whole("x" + repeated, false, false));
    }
  }
}

TEST_F(TokenizerTest, BytesOfTokensJoinToTheText) {
  std::mt19937 random(14);
  const std::string text = random_text(random, 5000);
  std::string joined;
  for (const Token t : encode({{text, false}})) joined += tokenizer_->bytes(t);
  EXPECT_EQ(joined, text);
  EXPECT_TRUE(tokenizer_->bytes(-1).empty());
  EXPECT_TRUE(tokenizer_->bytes(static_cast<Token>(tokenizer_->size())).empty());
}

}  // namespace
}  // namespace penstock::text
