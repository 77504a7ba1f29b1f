#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "engine/simulated/block_pool.h"
#include "engine/simulated/timing.h"
#include "kv/block.h"

namespace penstock::engine::simulated {

/// Which part of a request a worker computes. The other part then takes no time here. Prompts leave
/// a worker that only prefills together: at the end of a pass that leaves none half computed.
enum class Role : std::uint8_t { kAggregated, kPrefillOnly, kDecodeOnly };

/// What one modelled worker is. The defaults are those of Dynamo's mocker.
struct ModelOptions {
  std::uint32_t kv_blocks = 16384;       // physical blocks, [1, 2^28]
  std::uint32_t block_tokens = 64;       // [1, 2^16]
  std::uint32_t sequences_max = 256;     // running at once
  std::uint32_t pass_tokens_max = 8192;  // computed in one pass
  bool prefix_caching = true;
  bool chunked_prefill = true;  // off: a prompt is computed in one pass or waits
  Role role = Role::kAggregated;
  double speedup = 1;         // > 0; infinity: passes take no time
  double decode_speedup = 1;  // on top, for the decode part
  PolynomialClock clock;
};

/// Names a sequence from submit() to its end; used again afterwards.
using SequenceId = std::uint32_t;

struct Submission {
  std::uint64_t tag = 0;  // the caller's; comes back in Emission
  /// Names of the sequence's full blocks, from the first. At least those of the prompt. The memory
  /// is the caller's, must stay where it is until the sequence has ended, and may be filled in as
  /// the answer grows: the name of block i is read no sooner than in the first start_pass() after
  /// the block's last token was emitted. Blocks past the span get names
  /// made from `tag`, which must then be unique wherever names are compared.
  std::span<const kv::BlockHash> keys;
  kv::BlockHash root;               // the parent of block 0, for listeners
  std::uint32_t prompt_tokens = 0;  // >= 1
  std::uint32_t output_tokens = 0;  // >= 1; remove() ends a sequence sooner
  std::int32_t priority = 0;        // higher goes first among those waiting
  bool hold = false;                // keep the blocks after the last token, until release_held()
  bool loading = false;             // waits in its place, and those behind it pass, until loaded()
};

/// One token of one sequence.
struct Emission {
  std::uint64_t tag = 0;
  SequenceId id = 0;
  std::uint32_t cached_tokens = 0;  // prompt tokens found in the cache, the most of any admission
  bool last = false;                // the sequence ends with it: its id is gone (or held)
};

/// A decode leg whose blocks are now its own.
struct Reservation {
  std::uint64_t tag = 0;
  SequenceId id = 0;
};

struct Pass {
  Nanos duration{0};
  /// False: there was nothing that could be done (no sequence, or the waiting ones do not fit until
  /// somebody lets blocks go). Nothing has changed; ask again after the next change.
  bool progress = false;
  std::uint64_t prefill_tokens = 0;  // new prompt tokens, as the clock counts them
  /// How many passes from this one on are alike (the same duration and the same sequences, one
  /// token each, none ending before the last) as long as nothing is called in between. >= 1.
  std::uint32_t repeats = 1;
  /// What comes out at the pass's end, in running order; valid until finish_pass(). remove() during
  /// the pass still takes a sequence's token away.
  std::span<const Emission> emissions;
  std::span<const std::uint64_t> admitted;  // tags, preempted ones again; until the next pass
};

/// Continuous batching on one worker, without the computing: which sequences run in a pass, what it
/// costs, what comes out. Pure: no clock, no thread, no randomness; the caller moves the time from
/// the start of a pass to its end by Pass::duration.
///
/// A pass: running sequences get tokens of the budget first, in order; then the head of the waiting
/// queue is admitted as long as its whole known sequence fits into blocks nobody uses. When a
/// running sequence finds no block, the one admitted last gives all its blocks back, keeps its
/// generated tokens, and waits at the front. Blocks can be hit from the moment the tokens that fill
/// them are scheduled, by later sequences of the same pass as well.
///
/// Prefill and decode on different workers: the prefill leg is submitted with one output token and
/// `hold`; the decode leg by reserve() on the other worker, grant_reservation(), then activate()
/// once the blocks have arrived.
///
/// A replay need not step through passes that are alike: finish_pass(n) ends Pass::repeats or fewer
/// of them at once, with the same result.
///
/// Cost: O(running) a pass while decoding, plus O(blocks) when blocks are taken or let go. No
/// allocation once the vectors have grown. Not thread safe. activate() and release_held() must be
/// called between passes.
class SchedulerModel final {
 public:
  explicit SchedulerModel(const ModelOptions& options, PoolListener* listener = nullptr);

  /// Whether a worker like this can ever finish such a sequence: its tokens fit into the pool (and,
  /// without chunked prefill, into one pass).
  [[nodiscard]] bool can_run(std::uint32_t prompt_tokens, std::uint32_t output_tokens) const;

  /// Puts a sequence at the end of the waiting queue (of its priority). can_run() must hold.
  SequenceId submit(const Submission& submission);

  /// Schedules one pass. Between start_pass() and finish_pass() lies the pass's duration.
  const Pass& start_pass();

  /// Ends the pass, or the first `passes` <= Pass::repeats of those alike; gives what came out of
  /// the last. The span is valid until the next start_pass().
  std::span<const Emission> finish_pass(std::uint32_t passes = 1);

  /// Ends a sequence of any state before its time. Blocks that are filled stay reusable. During a
  /// pass the sequence stays in it until finish_pass(), but emits nothing.
  void remove(SequenceId id);

  /// What a sequence waits for that was submitted as `loading` is there: it can be admitted.
  void loaded(SequenceId id);

  /// A chain's leading blocks have come from elsewhere, as far as they are not held and there is
  /// room: they can be hit from now on, and nobody uses them.
  void take_in(std::span<const kv::BlockHash> keys, const kv::BlockHash& root);

  /// Lets a held sequence's blocks go; `id` is then gone.
  void release_held(SequenceId id);

  /// Queues a claim to blocks for the whole prompt of a sequence computed elsewhere. First come,
  /// first served; while one waits, submitted sequences are not admitted.
  SequenceId reserve(const Submission& submission);

  /// Grants the first claim if it fits now: its blocks are then set aside.
  std::optional<Reservation> grant_reservation();

  /// A granted sequence's prompt has arrived: its blocks can be hit, and it waits to be admitted,
  /// with nothing to compute.
  void activate(SequenceId id);

  /// Forgets the blocks that no sequence owns; see BlockPool::clear. Between passes.
  std::span<const kv::BlockHash> clear_cache() { return pool_.clear(); }

  [[nodiscard]] const ModelOptions& options() const noexcept { return options_; }
  [[nodiscard]] const BlockPool& pool() const noexcept { return pool_; }
  [[nodiscard]] bool in_pass() const noexcept { return in_pass_; }
  /// Nothing runs or waits (held and reserved sequences do neither).
  [[nodiscard]] bool idle() const noexcept { return running_.empty() && waiting_.count == 0; }
  [[nodiscard]] std::uint32_t running() const noexcept {
    return static_cast<std::uint32_t>(running_.size());
  }
  [[nodiscard]] std::uint32_t waiting() const noexcept { return waiting_.count; }
  /// Prompt tokens not yet computed of all that run or wait.
  [[nodiscard]] std::uint64_t prompt_tokens_left() const noexcept { return prompt_tokens_left_; }
  /// Of those, what the running ones have left. O(running).
  [[nodiscard]] std::uint64_t running_prompt_tokens_left() const noexcept;
  [[nodiscard]] std::uint64_t passes() const noexcept { return passes_; }
  [[nodiscard]] std::uint64_t preemptions() const noexcept { return preemptions_; }

  /// CHECKs everything that must hold between passes. O(blocks + sequences); for tests.
  void check_invariants() const;

 private:
  static constexpr SequenceId kNone = 0xFFFFFFFF;

  enum class State : std::uint8_t {
    kGone,
    kWaiting,    // in waiting_
    kRunning,    // in running_
    kHeld,       // ended, blocks kept
    kReserving,  // in reserving_
    kReserved,   // blocks for the prompt taken, not yet filled
  };

  struct Sequence {
    std::uint64_t tag = 0;
    std::uint32_t known = 0;         // tokens: prompt and generated
    std::uint32_t computed = 0;      // of those, in blocks
    std::uint32_t owned_tokens = 0;  // room in `slots`
    std::uint32_t complete_at = 0;   // `computed` at which the next block is full
    std::uint32_t prompt = 0;
    std::uint32_t output_left = 0;
    std::uint32_t cached = 0;  // see Emission
    State state = State::kGone;
    bool materialised = false;  // waits with its prompt computed
    bool hold = false;
    bool loading = false;
    bool removed = false;  // during this pass
    std::vector<BlockPool::Slot> slots;
    std::span<const kv::BlockHash> keys;
    kv::BlockHash root;
    std::int32_t priority = 0;
    SequenceId previous = kNone;  // in the queue that `state` names
    SequenceId next = kNone;
  };

  struct Queue {
    SequenceId first = kNone;
    SequenceId last = kNone;
    std::uint32_t count = 0;
  };

  /// What the clock needs to know of the prompts in a pass.
  struct PrefillSums {
    std::uint64_t sequences = 0;
    std::uint64_t positions_before = 0;
    std::uint64_t positions_after = 0;
  };

  SequenceId add(const Submission& submission, State state);
  void insert_before(Queue& queue, SequenceId id, SequenceId next);
  void unlink(Queue& queue, SequenceId id);
  void enqueue_waiting(SequenceId id);

  void schedule_running();
  void admit_waiting();
  [[nodiscard]] bool admit(SequenceId id);
  void admit_materialised(SequenceId id);
  [[nodiscard]] bool schedule(SequenceId id, std::uint32_t tokens, std::uint32_t prompt_from);
  void complete_blocks(Sequence& sequence);
  void start_running(SequenceId id);
  void emit(SequenceId id);
  void preempt_newest();
  [[nodiscard]] std::uint64_t prefill_tokens() const noexcept;
  [[nodiscard]] Nanos pass_duration() const;

  [[nodiscard]] std::uint32_t blocks_for(std::uint32_t tokens) const noexcept {
    return (tokens + options_.block_tokens - 1) / options_.block_tokens;
  }
  [[nodiscard]] kv::BlockHash key_of(const Sequence& sequence, std::uint32_t block) const noexcept;
  std::uint32_t match(const Sequence& sequence, std::uint32_t blocks_max);
  void release_blocks(Sequence& sequence);
  void retire(SequenceId id);

  const ModelOptions options_;
  BlockPool pool_;
  std::vector<Sequence> sequences_;
  std::vector<SequenceId> unused_;
  std::vector<SequenceId> running_;  // in order of admission
  Queue waiting_;
  Queue reserving_;
  std::uint64_t prompt_tokens_left_ = 0;
  std::uint64_t passes_ = 0;
  std::uint64_t preemptions_ = 0;

  // The pass under way.
  bool in_pass_ = false;
  bool removals_ = false;  // some sequence in it has been removed
  std::uint32_t budget_ = 0;
  std::uint32_t preempted_ = 0;
  std::uint32_t room_ = 0;  // tokens that each emitting sequence can go on for without a new block
  PrefillSums prefill_;
  Pass pass_;
  std::vector<Emission> emissions_;  // the first emission_count_; at least as long as running_
  std::size_t emission_count_ = 0;
  std::vector<std::uint64_t> admitted_;  // tags

  // Scratch, empty between uses.
  std::vector<BlockPool::Slot> matched_;
  std::vector<kv::BlockHash> keys_;
};

}  // namespace penstock::engine::simulated
