#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "router/policy.h"

namespace penstock::router {

/// A prompt to be placed, as one worker would see it.
struct Item {
  std::uint32_t question = 0;
  double tokens = 0;   // to be computed there
  double blocks = 0;   // of KV it will take there
  double load_ms = 0;  // until blocks that it need not compute have come from lower tiers
  double cold = 0;     // all its blocks if hardly any worker holds any of them; else 0
  double steps_max = std::numeric_limits<double>::infinity();  // that its answer may take
};

/// What delays are worth against each other: all in ms of waiting for a first token.
struct Prices {
  double stream = 0;  // of a ms by which a running answer is late
  double work = 0;    // of a ms of a worker's time, to those who will wait for it
  double home = 0;    // of a ms that one who comes for the same prefix will wait there

  /// Of a ms of decode steps.
  [[nodiscard]] double steps() const noexcept { return kStepsShare * stream; }

 private:
  static constexpr double kStepsShare = 0.5;  // they are expected, a stall is certain
};

/// What a prompt adds to a worker, predicted.
struct Added {
  double first_token_ms = 0;  // until its own first token
  double waiting_ms = 0;      // to the first tokens of others, in sum
  double stalled_ms = 0;      // to running answers, in sum: they stand still while it is computed
  double work_ms = 0;         // that it takes of the worker's time, which all who come later miss
  double home_ms = 0;         // to each of those who will come for its prefix: KV is scarce there
  double steps_ms = 0;        // decode steps: its own, and what its KV makes those of others longer

  [[nodiscard]] double cost(const Prices& prices) const noexcept {
    return first_token_ms + waiting_ms + prices.stream * stalled_ms + prices.steps() * steps_ms +
           prices.work * work_ms + prices.home * home_ms;
  }
};

/// What a choice looks at of every worker: enough for a bound below what a prompt would cost there.
struct Glance {
  TimePoint free_at = TimePoint::min();  // the running pass ends
  double start_ms = 0;                   // of the pass that is being filled, from then on
  double token_ms = 0;                   // at least, for each token to be computed
  double step_ms = 0;                    // at least, a decode step

  /// Of the running pass.
  [[nodiscard]] double rest_ms(TimePoint now) const noexcept {
    return free_at > now ? to_ms(free_at - now) : 0;
  }
  /// What Outlook::added().cost() is at least, for an answer of so many steps.
  [[nodiscard]] double least_ms(double tokens, double steps, double rest_ms,
                                const Prices& prices) const noexcept {
    return rest_ms + start_ms + token_ms * tokens + prices.steps() * steps * step_ms;
  }
};

/// What a worker is about to do, as far as the router knows: the rest of the running pass, then the
/// prompts given to it that have no first token, in order, as many tokens a pass as it takes. Valid
/// until something changes there (FleetView::revision), whatever the time. A value.
class Outlook final {
 public:
  /// On average an answer takes `stream_ms` from its first token to its last, and so many steps.
  void refresh(const fleet::FleetView& fleet, Slot slot, double stream_ms, double steps);
  [[nodiscard]] Glance glance() const noexcept;
  /// FleetView::revision that it is of.
  [[nodiscard]] std::uint64_t revision() const noexcept { return revision_; }
  /// Prompts that are not begun.
  [[nodiscard]] double queued() const noexcept { return queued_; }

  /// What one more prompt at the end of the queue adds. O(1).
  [[nodiscard]] Added added(const Item& item, double rest_ms) const noexcept;

  /// What all of `plan`, in order, costs once it is at the end of the queue: with `with` (if not
  /// null) before the first that has more tokens, without question `without`. Only differences
  /// between plans of one worker mean anything. O(plan).
  [[nodiscard]] double cost(std::span<const Item> plan, double rest_ms, const Prices& prices,
                            const Item* with = nullptr, std::uint32_t without = ~0U) const noexcept;

 private:
  static constexpr double kFull = 0.9;  // of the pool, from which on answers wait for others' KV

  /// Up to the pass that is being filled.
  struct Tail {
    double start_ms = 0;    // of that pass, from the end of the running one
    double tokens = 0;      // prompt tokens in it
    double ending = 0;      // prompts that end in it
    double decoding = 0;    // streams that decode when it starts
    double blocks = 0;      // KV in use, with that of the prompts queued
    double requests = 0;    // that run, and those queued
    double waited_ms = 0;   // first-token times of prompts that ended in passes closed since
    double stalled_ms = 0;  // prefill time x streams that stood still for it, in those
    double work_ms = 0;     // of prompts fed since
    double home_ms = 0;     // as well
    double steps_ms = 0;    // as well
  };

  void start(const fleet::FleetView& fleet, Slot slot);
  void feed(Tail& tail, const Item& item) const noexcept;
  void close(Tail& tail, double passes = 1) const noexcept;
  [[nodiscard]] double room(const Tail& tail) const noexcept {
    return std::max(1.0, pass_tokens_ - tail.decoding - tail.ending) - tail.tokens;
  }
  /// When answers have let go of as many blocks and places as are missing; 0: none is.
  [[nodiscard]] double ready_ms(double requests, double blocks) const noexcept {
    double ms = 0;
    if (blocks > capacity_) ms = (blocks - capacity_) * block_ms_;
    if (requests > places_) ms = std::max(ms, (requests - places_) * place_ms_);
    return ms;
  }
  /// A step with so many KV blocks in use.
  [[nodiscard]] double step_ms(double blocks) const noexcept {
    return cost_.decode_ms(std::min(1.0, blocks / capacity_));
  }
  /// What nobody holds will be held where it goes, and be asked for there: what those who ask will
  /// wait more for the KV that it takes. As if the pool were a queue with one server (u^2 / (1 - u)
  /// wait), for as long as an answer takes.
  [[nodiscard]] double home_ms(double blocks, double cold) const noexcept;
  /// Of its answer, as far as it may be shorter than most.
  [[nodiscard]] double steps(const Item& item) const noexcept {
    return std::min(steps_, item.steps_max);
  }
  /// Computing the tokens, and, once it nearly fills the pool in which others use so many blocks,
  /// its share of the pool for as long as its answer takes: then that is what others wait for.
  [[nodiscard]] double work_ms(const Item& item, double others) const noexcept;
  /// All steps of its answer, and what the KV that it brings makes those of `answers` others
  /// longer.
  [[nodiscard]] double steps_ms(const Item& item, double answers, double others) const noexcept;

  std::uint64_t revision_ = 0;
  TimePoint free_at_ = TimePoint::min();
  double queued_ = 0;
  double stream_ms_ = 0;
  double steps_ = 0;
  Tail tail_;
  fleet::PassCost cost_;
  double decode_ms_ = 0;  // a step with what is in use now
  double pass_tokens_ = 0;
  double capacity_ = std::numeric_limits<double>::infinity();  // KV blocks
  double block_ms_ = 0;  // until a block in use is let go, the mean over all
  double places_ = std::numeric_limits<double>::infinity();  // to run in
  double place_ms_ = 0;  // until one of all running requests ends
};

}  // namespace penstock::router
