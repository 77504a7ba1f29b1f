#pragma once

#include <cstdint>
#include <vector>

#include "base/rng.h"
#include "kv/block.h"
#include "sim/trace.h"

namespace penstock::sim {

/// What stands for the content of an engine block where workers and routers name it. A worker's
/// name for a block and the hash of its own tokens are the same number here, since a trace names a
/// block together with all before it.
[[nodiscard]] inline std::uint64_t content_hash(const kv::BlockHash& key) noexcept {
  return mix64(key.low + key.high * 0x9e3779b97f4a7c15ULL);
}

/// Names a prompt's full engine blocks. Two names are equal exactly when the tokens up to the
/// block's end are. Names of one trace block lie side by side.
inline void keys_of(const Trace& trace, const TraceRequest& request, std::uint32_t block_tokens,
                    std::vector<kv::BlockHash>& keys) {
  const std::span<const std::uint32_t> chain = trace.chain(request);
  // Engine blocks that end in one trace block; one more if the sizes do not divide.
  const std::uint64_t stride = (trace.block_tokens + block_tokens - 1) / block_tokens +
                               (trace.block_tokens % block_tokens == 0 ? 0 : 1);
  keys.resize(request.input_tokens / block_tokens);
  for (std::uint32_t i = 0; i < keys.size(); ++i) {
    const std::uint64_t last_token = std::uint64_t{i + 1} * block_tokens - 1;
    const std::uint64_t holder = last_token / trace.block_tokens;
    const std::uint64_t first = holder * trace.block_tokens / block_tokens;
    keys[i] = {.high = 0, .low = chain[holder] * stride + (i - first)};
  }
}

}  // namespace penstock::sim
