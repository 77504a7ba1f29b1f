#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/kv_event_log.h"
#include "engine/kv_exchange.h"
#include "engine/llama/block_pool.h"
#include "engine/llama/context.h"
#include "engine/llama/kv_leases.h"
#include "engine/llama/peer_fetch.h"
#include "engine/llama/sequence.h"
#include "engine/load_report.h"
#include "tiers/store.h"

namespace penstock::engine::llama {

/// KV computed before, as a worker finds and keeps it: its own pool of blocks and, if there is one,
/// the store behind it that outlives the worker (tiers/). The worker's thread.
///
/// A prompt's beginning comes from the pool at once (`restore`). What the pool lacks and the store
/// has is fetched first if that is predicted to be quicker than computing it; the sequence waits
/// for it while others go on, and never longer than computing would take. So it is with a prompt
/// that another worker has computed for this one (GenerateRequest::fetch): its blocks are pulled
/// into slots of the pool, and become blocks of the pool once they are verified.
class PrefixCache final {
 public:
  /// `store` and `exchange` may be null. `exact` blocks hold only KV computed as if alone
  /// (batch_shape.h).
  PrefixCache(Context& context, const LlamaOptions& options, KvEventLog& events,
              tiers::Store* store, KvExchange* exchange, const Clock& clock);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  [[nodiscard]] const BlockPool& pool() const noexcept { return pool_; }

  /// What computing a prompt token takes now: decides what is loaded and kept.
  void set_token_cost(Nanos each) noexcept { token_cost_.store(each, std::memory_order_relaxed); }
  /// Engine::foresee_load(). Thread: any.
  [[nodiscard]] tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                               std::size_t have) const;
  /// Engine::tier_state(). Thread: any.
  [[nodiscard]] TierState tier_state() const;
  /// What names in the store begin with; empty: there is none. Thread: any.
  [[nodiscard]] std::string_view tiers_key() const noexcept {
    return reuses_store() ? std::string_view(store_key_) : std::string_view();
  }

  /// True: blocks of the prompt are on their way, and the sequence is `fetching()`.
  bool begin_fetch(Sequence& sequence);
  /// Copies what has come into the pool, for about `slice` (a block at least). True: that was all.
  bool take_fetched(Sequence& sequence, Nanos slice);
  /// Waits until there may be something to take, for about a millisecond at most.
  void wait_for_fetch(Sequence& sequence) const;
  /// The sequence has no use for what is on its way.
  void end_fetch(Sequence& sequence);
  /// Fills the sequence's stream with what the pool has of its prompt. False: llama.cpp refused;
  /// all of it is computed.
  bool restore(Sequence& sequence);
  /// Puts the full blocks that the sequence computed and the pool lacks into the pool, and offers
  /// them to the store. False: llama.cpp did not give the state.
  bool publish(Sequence& sequence);

  /// Whether others can take blocks from here, and this worker from them.
  [[nodiscard]] bool shares() const noexcept { return pool_.arena() != nullptr; }
  /// That, and somebody could come to them.
  [[nodiscard]] bool hands_over() const noexcept {
    return shares() && exchange_->reachable(offered_);
  }
  /// Tokens of its prompt that need not be computed once all of its full blocks are in the pool.
  [[nodiscard]] std::uint32_t reusable(const Sequence& sequence) const noexcept;
  /// How many of its prompt's blocks a prefill_only sequence leaves: all that another one of this
  /// prompt would reuse.
  [[nodiscard]] std::uint32_t blocks_to_leave(const Sequence& sequence) const noexcept;
  /// True: the pool has them all. In any case the sequence's chain is on those that it has.
  bool has_blocks_to_leave(Sequence& sequence);
  /// After that: whether the pool takes those that it lacks, as it is now.
  [[nodiscard]] bool has_room_to_leave(const Sequence& sequence) const noexcept;
  /// Keeps the blocks that a prefill_only sequence computed, and makes its ticket.
  void leave(Sequence& sequence);
  /// Ends the lease on what a prefill_only request left; others are ignored.
  void end_lease(RequestId id) { leases_.end(id); }
  /// Empties the pool, but for what is in use. The store behind it is others' as well.
  void clear() { pool_.clear(); }
  /// Takes back what nobody reads or writes any more. Appends the requests whose leases are over.
  void sweep(std::vector<RequestId>& gone);
  /// How long until there is something to sweep; max(): nothing is kept.
  [[nodiscard]] Nanos until_sweep() const;

  /// What workers must agree in that take blocks from each other: the store's key, in short.
  [[nodiscard]] const std::string& compatibility() const noexcept { return compatibility_; }

  /// Adds what the pool holds, what has come from other workers, and what a prompt token costs.
  void write_to(LoadReport& report) const;

  /// What blocks in the store must agree in: whose and how computed, by which build on which CPU.
  [[nodiscard]] static std::string store_key(const Context& context, const LlamaOptions& options);

 private:
  BlockPool::Options pool_options();
  [[nodiscard]] bool reuses_store() const noexcept {
    return store_ != nullptr && pool_.blocks_max() > 0;
  }
  [[nodiscard]] double block_cost_ns() const noexcept;
  const tiers::Key& key_of(Sequence& sequence, std::size_t block);
  bool begin_pull(Sequence& sequence);
  bool start_pull(PeerFetch& pull);
  bool still_opening(PeerFetch& pull);
  bool take_pulled(Sequence& sequence);
  void end_pulls();
  void missed(FetchMiss why, std::size_t blocks) noexcept {
    missed_[static_cast<std::size_t>(why)] += blocks;
  }
  void offer(const tiers::Key& key, std::span<const std::byte> bytes, tiers::Keep keep);

  Context& context_;
  const std::uint32_t block_tokens_;
  const std::uint64_t pool_bytes_;
  const bool exact_;
  const double recompute_weight_;
  tiers::Store* const store_;
  const std::string store_key_;
  const std::string compatibility_;
  const Clock& clock_;
  KvExchange* const exchange_;
  BlockPool pool_;
  KvLeases leases_;
  transfer::Traffic traffic_;                       // of pulls: outlives them
  std::vector<std::unique_ptr<PeerFetch>> ending_;  // cancelled, or over
  KvTicket offered_;                                // at the exchange: what all tickets say
  std::uint64_t blocks_pulled_ = 0;
  std::array<std::uint64_t, kFetchMisses> missed_{};
  Nanos pulling_{0};
  TimedFetch last_pull_;
  std::atomic<Nanos> token_cost_;
  std::vector<std::byte> arrived_;  // a block between store and pool
};

}  // namespace penstock::engine::llama
