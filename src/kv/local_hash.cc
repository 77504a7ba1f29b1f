#include "kv/local_hash.h"

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL  // blocks are short: a call each would cost a good part of hashing them
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

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

std::uint64_t LocalHasher::block_with_media(std::span<const Token> tokens, std::size_t first,
                                            std::span<const MediaRun> media) const {
  constexpr std::size_t kFrameBytes = 1 + sizeof(std::uint32_t) + sizeof(std::uint64_t);
  std::vector<unsigned char> frames(tokens.size() * kFrameBytes);
  unsigned char* frame = frames.data();
  for (std::size_t i = 0; i < tokens.size(); ++i, frame += kFrameBytes) {
    const std::size_t position = first + i;
    while (!media.empty() && position >= media[0].first + media[0].tokens) {
      media = media.subspan(1);
    }
    const bool within = !media.empty() && position >= media[0].first;
    const auto what = static_cast<std::uint32_t>(within ? position - media[0].first : tokens[i]);
    const std::uint64_t hash = within ? media[0].hash : 0;
    frame[0] = within ? 1 : 0;
    std::memcpy(frame + 1, &what, sizeof what);
    std::memcpy(frame + 1 + sizeof what, &hash, sizeof hash);
  }
  return XXH3_64bits_withSecretandSeed(frames.data(), frames.size(), secret_, kSecretBytes, seed_);
}

void LocalHasher::chain(std::span<const Token> tokens, std::size_t block_tokens,
                        std::vector<std::uint64_t>& out, std::span<const MediaRun> media) const {
  CHECK(block_tokens > 0);
  out.reserve(out.size() + tokens.size() / block_tokens);
  for (std::size_t end = block_tokens; end <= tokens.size(); end += block_tokens) {
    const std::size_t first = end - block_tokens;
    while (!media.empty() && media[0].first + media[0].tokens <= first) media = media.subspan(1);
    const auto own = tokens.subspan(first, block_tokens);
    const bool touched = !media.empty() && media[0].first < end;
    out.push_back(touched ? block_with_media(own, first, media) : block(own));
  }
}

std::uint64_t media_hash(std::string_view id) {
  constexpr std::size_t kDigestDigits = 64;
  const auto is_hex = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  };
  if (id.size() == kDigestDigits && std::ranges::all_of(id, is_hex)) {
    std::uint64_t value = 0;
    std::from_chars(id.data(), id.data() + 16, value, 16);
    return value;
  }
  return XXH3_64bits(id.data(), id.size());
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
