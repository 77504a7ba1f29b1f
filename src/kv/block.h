#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/ids.h"

namespace penstock::kv {

/// Content identity of one full block of tokens *and everything before it*: two blocks are equal
/// exactly when model, adapter, salt and every token from position 0 to the block's end are.
/// 128 bits of XXH3, so a collision between honest prompts is not expected in the life of a fleet;
/// whoever reuses bytes under a hash compares the token ids as well (a hash is a claim, not proof).
struct BlockHash {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend constexpr auto operator<=>(const BlockHash&, const BlockHash&) = default;
};

/// The parent of a chain's first block: what the tokens alone do not say. `model` must name the
/// weights (not an alias), `salt` keeps tenants apart (empty: shared).
[[nodiscard]] BlockHash chain_root(std::string_view model, std::string_view adapter,
                                   std::string_view salt);

/// The hash of the block that follows `parent` and holds exactly `tokens`.
[[nodiscard]] BlockHash chain_next(const BlockHash& parent, std::span<const Token> tokens);

}  // namespace penstock::kv

template <>
struct std::hash<penstock::kv::BlockHash> {
  std::size_t operator()(const penstock::kv::BlockHash& h) const noexcept { return h.low; }
};
