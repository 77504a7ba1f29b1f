#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"

namespace penstock::tiers {

/// Names one full block of tokens, everything before it, whose it is and what its bytes mean: the
/// first 128 bits of a SHA-256 chain. Blocks here outlive those who wrote them and are given to
/// whoever asks by this name alone, so unlike kv::BlockHash it must not be forgeable.
struct Key {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend constexpr auto operator<=>(const Key&, const Key&) = default;
};

/// What the first block of a chain follows. `compatibility` says what the bytes mean (weights,
/// build, types, layout); `salt` keeps tenants apart (empty: shared).
[[nodiscard]] Key root_key(std::string_view compatibility, std::string_view salt);

/// The block of exactly `tokens` after `parent`.
[[nodiscard]] Key next_key(const Key& parent, std::span<const Token> tokens);

/// Appends the names of the prompt's full blocks, from `root` on, that `keys` does not have yet.
void name_blocks(const Key& root, std::span<const Token> prompt, std::uint32_t block_tokens,
                 std::vector<Key>& keys);

}  // namespace penstock::tiers

template <>
struct std::hash<penstock::tiers::Key> {
  std::size_t operator()(const penstock::tiers::Key& key) const noexcept { return key.low; }
};
