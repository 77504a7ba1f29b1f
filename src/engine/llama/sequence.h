#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "engine/llama/block_pool.h"
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
        tokens(request.prompt) {}

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
  std::vector<BlockPool::Pin> chain;  // the pool's blocks of positions 0.., as far as known

  // With a store behind the pool.
  std::vector<tiers::Key> keys;              // of its full blocks, as far as needed
  std::optional<tiers::Store::Fetch> fetch;  // while blocks of the prompt are on their way
  std::vector<tiers::Store::Pin> fetched;    // they have come, and go into the pool
  std::size_t imported = 0;                  // of those, in the pool

  [[nodiscard]] bool fetching() const noexcept { return fetch.has_value(); }
  void end_fetch() {
    fetch.reset();
    fetched.clear();
    imported = 0;
  }

  [[nodiscard]] std::uint32_t prompt_tokens() const noexcept {
    return static_cast<std::uint32_t>(request.prompt.size());
  }
  [[nodiscard]] bool decoding() const noexcept { return computed >= prompt_tokens(); }
  [[nodiscard]] Usage usage() const noexcept { return {prompt_tokens(), cached, drawn}; }
};

}  // namespace penstock::engine::llama
