#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/llama/block_pool.h"
#include "engine/llama/peer_fetch.h"
#include "engine/llama/sampler.h"
#include "kv/block.h"
#include "kv/local_hash.h"
#include "tiers/store.h"

namespace penstock::engine::llama {

/// One request inside the worker, from the queue to its end. The worker's thread.
struct Sequence {
  Sequence(GenerateRequest r, std::unique_ptr<Sampler> s, kv::BlockHash chain_root)
      : request(std::move(r)),
        sampler(std::move(s)),
        root(chain_root),
        locals({}, request.cache_salt),
        tokens(request.prompt),
        keys(std::move(request.keys)) {}

  GenerateRequest request;
  std::unique_ptr<Sampler> sampler;
  kv::BlockHash root;                   // model and salt: what its first block follows
  kv::LocalHasher locals;               // how events name its blocks
  std::vector<Token> tokens;            // the prompt, then what was drawn
  std::optional<std::uint32_t> stream;  // while running
  std::uint32_t computed = 0;           // positions 0..computed-1 have KV in the stream
  std::uint32_t settled = 0;            // of those, computed as if alone (batch_shape.h)
  std::uint32_t cached = 0;             // of those, taken from the pool
  std::uint32_t drawn = 0;
  Nanos queued{0};                    // Usage::queued
  std::vector<BlockPool::Pin> chain;  // the pool's blocks of positions 0.., as far as known

  std::uint32_t prefill_end = 0;     // prefill_only: computed up to here it is done
  std::unique_ptr<KvTicket> ticket;  // prefill_only: what it leaves behind

  std::unique_ptr<PeerFetch> pull;  // while blocks of the prompt come from another worker
  // With a store behind the pool.
  std::vector<tiers::Key> keys;              // of its full blocks, as far as needed
  std::optional<tiers::Store::Fetch> fetch;  // while blocks of the prompt are on their way
  std::vector<tiers::Store::Pin> fetched;    // they have come, and go into the pool
  std::size_t imported = 0;                  // of those, in the pool

  [[nodiscard]] bool fetching() const noexcept { return fetch.has_value() || pull != nullptr; }

  [[nodiscard]] std::uint32_t prompt_tokens() const noexcept {
    return static_cast<std::uint32_t>(request.prompt.size());
  }
  /// Of the prompt, still to be computed here.
  [[nodiscard]] std::uint32_t prompt_left() const noexcept {
    const std::uint32_t end = request.prefill_only ? prefill_end : prompt_tokens();
    return end - std::min(computed, end);
  }
  [[nodiscard]] bool decoding() const noexcept { return computed >= prompt_tokens(); }
  [[nodiscard]] Usage usage() const noexcept { return {prompt_tokens(), cached, drawn, queued}; }
};

}  // namespace penstock::engine::llama
