#include "kv/block.h"

#define XXH_STATIC_LINKING_ONLY
#define XXH_INLINE_ALL  // blocks are short: the library's call and state cost as much as hashing
                        // them
#include <xxhash.h>

#include <array>
#include <cstddef>
#include <cstring>

namespace penstock::kv {
namespace {

BlockHash from(XXH128_hash_t h) { return {h.high64, h.low64}; }

}  // namespace

BlockHash chain_root(std::string_view model, std::string_view adapter, std::string_view salt) {
  XXH3_state_t state;
  XXH3_128bits_reset_withSeed(&state, 0);
  for (std::string_view part : {model, adapter, salt}) {
    // The length before each part keeps ("ab", "c") and ("a", "bc") apart.
    const std::uint64_t size_bytes = part.size();
    XXH3_128bits_update(&state, &size_bytes, sizeof size_bytes);
    XXH3_128bits_update(&state, part.data(), part.size());
  }
  return from(XXH3_128bits_digest(&state));
}

BlockHash chain_next(const BlockHash& parent, std::span<const Token> tokens) {
  const std::uint64_t seed = parent.low ^ (parent.high * 0x9E3779B97F4A7C15ULL);
  const std::array<std::uint64_t, 2> parent_words = {parent.high, parent.low};
  // In one piece: to hash by parts costs several times as much.
  std::array<std::byte, 2048> whole;
  if (sizeof parent_words + tokens.size_bytes() <= whole.size()) {
    std::memcpy(whole.data(), parent_words.data(), sizeof parent_words);
    if (!tokens.empty()) {
      std::memcpy(whole.data() + sizeof parent_words, tokens.data(), tokens.size_bytes());
    }
    return from(
        XXH3_128bits_withSeed(whole.data(), sizeof parent_words + tokens.size_bytes(), seed));
  }
  XXH3_state_t state;
  XXH3_128bits_reset_withSeed(&state, seed);
  XXH3_128bits_update(&state, parent_words.data(), sizeof parent_words);
  XXH3_128bits_update(&state, tokens.data(), tokens.size_bytes());
  return from(XXH3_128bits_digest(&state));
}

}  // namespace penstock::kv
