#include "kv/local_hash.h"

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL  // blocks are short: a call each would cost a good part of hashing them
#include <xxhash.h>

#include <array>
#include <bit>

#include "base/check.h"

namespace penstock::kv {
namespace {

constexpr std::uint64_t kSeed = 1337;

static_assert(std::endian::native == std::endian::little,
              "tokens are hashed as they lie in memory");
static_assert(sizeof(Token) == 4);

}  // namespace

LocalHasher::LocalHasher(std::string_view adapter, std::string_view salt) : seed_(kSeed) {
  static_assert(kSecretBytes == XXH_SECRET_DEFAULT_SIZE);
  if (!adapter.empty()) seed_ += XXH3_64bits_withSeed(adapter.data(), adapter.size(), 0);
  if (!salt.empty()) seed_ += XXH3_64bits_withSeed(salt.data(), salt.size(), 1);
  XXH3_generateSecret_fromSeed(secret_, seed_);
}

std::uint64_t LocalHasher::block(std::span<const Token> tokens) const {
  return XXH3_64bits_withSecretandSeed(tokens.data(), tokens.size_bytes(), secret_, kSecretBytes,
                                       seed_);
}

void LocalHasher::chain(std::span<const Token> tokens, std::size_t block_tokens,
                        std::vector<std::uint64_t>& out) const {
  CHECK(block_tokens > 0);
  out.reserve(out.size() + tokens.size() / block_tokens);
  for (; tokens.size() >= block_tokens; tokens = tokens.subspan(block_tokens)) {
    out.push_back(block(tokens.first(block_tokens)));
  }
}

void sequence_hashes(std::span<const std::uint64_t> locals, std::vector<std::uint64_t>& out) {
  out.reserve(out.size() + locals.size());
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < locals.size(); ++i) {
    const std::array<std::uint64_t, 2> words = {before, locals[i]};
    before = i == 0 ? locals[0] : XXH3_64bits_withSeed(words.data(), sizeof words, kSeed);
    out.push_back(before);
  }
}

}  // namespace penstock::kv
