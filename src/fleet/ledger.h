#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fleet/active_blocks.h"
#include "fleet/fleet_view.h"
#include "fleet/taken_prompts.h"

namespace penstock::fleet {

class Ledger;

/// What a request weighs on the worker it was given to.
struct Charge {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t uncached_tokens = 0;      // of those, believed to be computed there
  std::uint32_t prompt_blocks = 0;        // full ones
  std::uint32_t new_blocks = 0;           // of KV, that are not in use there yet
  std::span<const std::uint64_t> locals;  // the prompt's blocks, to count distinct ones; or empty
};

/// One request's entry in the ledger. Movable; its destruction takes the request off the worker's
/// load, exactly once, whatever has become of the worker. Not thread safe, as the ledger.
class Lease final {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept { *this = std::move(other); }
  Lease& operator=(Lease&& other) noexcept;
  ~Lease() { release(); }

  [[nodiscard]] explicit operator bool() const noexcept { return ledger_ != nullptr; }
  [[nodiscard]] Slot worker() const noexcept { return slot_; }
  /// The worker has taken the request: until its first token or end, whichever is first, its prompt
  /// counts as there (Ledger::raise_taken). TakenPrompts::add() says what of `locals` and `held`.
  void taken(std::span<const std::uint64_t> locals, std::uint32_t held);
  /// The prompt is computed. Only the first call counts.
  void first_token() noexcept;
  /// So many tokens more were generated.
  void generated(std::uint32_t tokens) noexcept;
  void release() noexcept;

 private:
  friend class Ledger;
  Ledger* ledger_ = nullptr;
  Slot slot_ = 0;
  std::uint32_t life_ = 0;
  PrefillQueues::Entry queued_ = 0;  // while prefilling_
  std::uint32_t prompt_tokens_ = 0;
  std::uint32_t uncached_tokens_ = 0;
  std::uint32_t prompt_blocks_ = 0;
  std::uint32_t output_tokens_ = 0;
  ActiveBlocks::Chain chain_ = ActiveBlocks::kEmpty;
  TakenPrompts::Entry taken_ = TakenPrompts::kNone;  // while prefilling_
  bool prefilling_ = false;
};

/// The workers of one router and what it has given them: charged at the moment of selection, taken
/// back by the lease's end, corrected by what workers report. Owned by one thread; leases must not
/// outlive it. Bounded: slots by `slots_max`, entries by the leases.
///
/// Invariant (check_invariants): each sum of a worker is the sum over the live leases of its
/// present life.
class Ledger final {
 public:
  struct Options {
    std::uint32_t slots_max = 16384;
    bool count_distinct_blocks = false;  // costs O(blocks) a request; see FleetView::active_blocks
  };

  Ledger() : Ledger(Options{}) {}
  explicit Ledger(const Options& options);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  /// Gives a worker a slot, that of one that is gone if there is any. Absent when all are taken.
  /// Its load starts at nothing; leases of the slot's lives before no longer count.
  std::optional<Slot> add(WorkerState state, Role role);
  void set_state(Slot slot, WorkerState state);
  void set_role(Slot slot, Role role);
  void set_trust(Slot slot, Trust trust) { trust_.at(slot) = trust; }
  void set_cost(Slot slot, const PassCost& cost) {
    if (cost_.at(slot) == cost) return;
    cost_[slot] = cost;
    touch(slot);
  }
  /// The same worker began anew: it has lost all requests, and counts its reports from 1.
  void restarted(Slot slot);

  [[nodiscard]] Lease charge(Slot slot, const Charge& charge);

  /// False if the report is older than one seen before; it is then dropped and counted. What was
  /// given out after the report was made (see WorkerReport::accepted) stays on top of it.
  bool report(Slot slot, const WorkerReport& report);

  [[nodiscard]] FleetView view() const noexcept;
  /// How many leading blocks of a prompt are in flight on each worker; needs count_distinct_blocks.
  void match_active(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths) const {
    active_.match(locals, depths);
  }

  /// Raises how many leading blocks of a prompt each worker holds by what it has taken and will
  /// have computed before it looks at the next one. See TakenPrompts.
  void raise_taken(std::span<const std::uint64_t> locals,
                   std::span<std::uint32_t> depths) const noexcept {
    taken_.raise(locals, depths);
  }

  /// See TakenPrompts::told().
  [[nodiscard]] std::uint32_t told_blocks(Slot slot, std::span<const std::uint64_t> locals,
                                          std::uint32_t depth) const noexcept {
    return taken_.told(slot, locals, depth);
  }

  [[nodiscard]] std::uint64_t reports_stale() const noexcept { return reports_stale_; }
  /// Live leases of all workers' present lives.
  [[nodiscard]] std::uint64_t in_flight() const noexcept;
  /// CHECKs the sums against the leases. O(leases); for tests.
  void check_invariants(std::span<const Lease* const> leases) const;

 private:
  friend class Lease;
  static constexpr std::size_t kChanges = 1024;  // remembered

  /// Requests given to a worker that none of its reports has shown yet. Older ones than the ring
  /// holds are taken for shown.
  struct Unseen {
    static constexpr std::uint32_t kMax = 32;
    std::array<std::uint32_t, kMax> tokens{};
    std::uint64_t begin = 0;  // ordinals of the requests given to this life
    std::uint64_t end = 0;
    std::uint64_t sum = 0;
    void push(std::uint32_t uncached_tokens) noexcept;
    void pop_until(std::uint64_t accepted) noexcept;
  };

  void clear_load(Slot slot);
  void touch(Slot slot) noexcept {
    revision_[slot] = ++revisions_;
    changes_[revisions_ % kChanges] = slot;
  }
  void update_queued(Slot slot) noexcept;

  const Options options_;
  std::uint64_t membership_ = 0;
  std::uint64_t reports_stale_ = 0;
  std::uint64_t revisions_ = 0;
  std::array<Slot, kChanges> changes_{};
  std::vector<WorkerState> state_;
  std::vector<Trust> trust_;
  std::vector<Role> role_;
  std::vector<PassCost> cost_;
  std::vector<std::uint64_t> revision_;
  std::vector<std::uint32_t> life_;
  std::vector<std::uint32_t> requests_;
  std::vector<std::uint32_t> prefills_;
  std::vector<std::uint64_t> prefill_tokens_;
  std::vector<std::uint64_t> prompt_tokens_;
  std::vector<std::uint64_t> output_tokens_;
  std::vector<std::uint64_t> prompt_blocks_;
  std::vector<std::uint64_t> queued_tokens_;
  std::vector<WorkerReport> reports_;
  std::vector<Unseen> unseen_;
  std::vector<std::uint32_t> unseen_counts_;
  PrefillQueues queues_;
  ActiveBlocks active_;
  TakenPrompts taken_;
};

}  // namespace penstock::fleet
