#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/kv_event_log.h"
#include "engine/llama/block_pool.h"
#include "engine/llama/context.h"
#include "engine/llama/sequence.h"
#include "tiers/store.h"

namespace penstock::engine::llama {

/// KV computed before, as a worker finds and keeps it: its own pool of blocks and, if there is one,
/// the store behind it that outlives the worker (tiers/). The worker's thread.
///
/// A prompt's beginning comes from the pool at once (`restore`). What the pool lacks and the store
/// has is fetched first if that is predicted to be quicker than computing it; the sequence waits
/// for it while others go on, and never longer than computing would take.
class PrefixCache final {
 public:
  /// `store` may be null. `exact` blocks hold only KV computed as if alone (batch_shape.h).
  PrefixCache(Context& context, const LlamaOptions& options, KvEventLog& events,
              tiers::Store* store, const Clock& clock);

  [[nodiscard]] const BlockPool& pool() const noexcept { return pool_; }

  /// What computing a prompt token takes now: decides what is loaded and kept.
  void set_token_cost(Nanos each) noexcept { token_cost_ = each; }

  /// True: blocks of the prompt are on their way, and the sequence is `fetching()`.
  bool begin_fetch(Sequence& sequence);
  /// Copies what has come into the pool, for about `slice` (a block at least). True: that was all.
  bool take_fetched(Sequence& sequence, Nanos slice);
  /// Fills the sequence's stream with what the pool has of its prompt. False: llama.cpp refused;
  /// all of it is computed.
  bool restore(Sequence& sequence);
  /// Puts the full blocks that the sequence computed and the pool lacks into the pool, and offers
  /// them to the store. False: llama.cpp did not give the state.
  bool publish(Sequence& sequence);

  /// What blocks in the store must agree in: whose and how computed, by which build on which CPU.
  [[nodiscard]] static std::string store_key(const Context& context, const LlamaOptions& options);

 private:
  BlockPool::Options pool_options();
  [[nodiscard]] double block_cost_ns() const noexcept;
  const tiers::Key& key_of(Sequence& sequence, std::size_t block);
  void offer(const tiers::Key& key, std::span<const std::byte> bytes, tiers::Keep keep);

  Context& context_;
  const std::uint32_t block_tokens_;
  const std::uint64_t pool_bytes_;
  const bool exact_;
  tiers::Store* const store_;
  const std::string store_key_;
  const Clock& clock_;
  BlockPool pool_;
  Nanos token_cost_ = std::chrono::milliseconds(5);  // until it is measured
  std::vector<std::byte> arrived_;                   // a block between store and pool
};

}  // namespace penstock::engine::llama
