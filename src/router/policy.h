#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/rng.h"
#include "fleet/fleet_view.h"
#include "router/hand_overs.h"
#include "tiers/decision.h"

namespace penstock::router {

using kv::Slot;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNoCost = std::numeric_limits<double>::quiet_NaN();
constexpr std::uint32_t kTokensUnlimited = std::numeric_limits<std::uint32_t>::max();

/// Which part of a request is being placed.
enum class Stage : std::uint8_t {
  kWhole,    // prefill and decode on one worker
  kPrefill,  // the first leg of a request that is decoded elsewhere
  kDecode,   // its second leg
};

/// What moving the KV of a prompt to another worker takes, as measured.
struct TransferCost {
  double fixed_ms = 0;
  double block_ms = 0;
};

/// What a policy may look at. Spans are dense by slot, and the caller's; nothing is copied.
struct Question {
  std::uint64_t ordinal = 0;  // how many requests this router placed before in this stage
  Stage stage = Stage::kWhole;
  TimePoint now{};
  std::uint32_t prompt_tokens = 0;
  std::uint32_t block_tokens = 1;
  std::uint32_t prompt_blocks = 0;                     // full ones
  std::uint32_t output_tokens_max = kTokensUnlimited;  // that its client wants at most
  std::uint64_t prefix_key = 0;                        // hash of the first characters or tokens
  fleet::FleetView fleet;
  std::span<const Slot> candidates;          // who may take it; ascending, never empty
  std::span<const std::uint32_t> cached;     // leading blocks believed cached there; absent: zeros
  std::span<const std::uint32_t> active;     // leading blocks in flight there; absent: zeros
  std::span<const tiers::LoadChoice> loads;  // it would load behind those cached; absent: nothing
  double ttft_max_ms = kInfinity;            // a first token later than that is of no use
  // Of an answer (kDecode):
  std::optional<TransferCost> transfer;  // of the prompt's KV to who lacks it; absent: not known
  std::optional<Slot> prompt_at;         // who has computed the prompt; absent: none of these
  std::uint32_t tail_tokens = 1;         // Split::tail_tokens

  [[nodiscard]] std::uint32_t cached_blocks(Slot slot) const noexcept {
    return slot < cached.size() ? cached[slot] : 0;
  }
  /// Of the whole prompt, in [0, 1].
  [[nodiscard]] double cached_fraction(Slot slot) const noexcept {
    return prompt_blocks == 0 ? 0 : static_cast<double>(cached_blocks(slot)) / prompt_blocks;
  }
  [[nodiscard]] tiers::LoadChoice load(Slot slot) const noexcept {
    return slot < loads.size() ? loads[slot] : tiers::LoadChoice{};
  }
  /// What would have to be computed there: an engine computes at least the last token.
  [[nodiscard]] std::uint32_t uncached_tokens(Slot slot) const noexcept {
    const std::uint32_t hit = (cached_blocks(slot) + load(slot).blocks) * block_tokens;
    return hit < prompt_tokens ? prompt_tokens - hit : 1;
  }
};

/// How else a request may run than whole: its prompt on one worker, its answer on another.
struct Split {
  std::span<const Slot> prefill;  // who may take the prompt; ascending
  std::span<const Slot> decode;   // who may take the answer; ascending
  TransferCost transfer;
  std::uint32_t tail_tokens = 1;          // of a prompt, computed with the answer in any case
  const HandOvers* hand_overs = nullptr;  // null: KV comes through everywhere

  [[nodiscard]] bool apart(Slot from, Slot to, TimePoint now) const noexcept {
    return hand_overs != nullptr && hand_overs->apart(from, to, now);
  }
};

/// Why a choice was made: every candidate that was looked at, with every term of its cost. Filled
/// by a policy when asked; allocates in reserve() only.
class Explanation final {
 public:
  static constexpr std::size_t kTermsMax = 8;
  struct Row {
    Slot slot;
    double cost;  // lower is better; infinity: not considered; kNoCost: the rule has none
    std::array<double, kTermsMax> terms;
    Stage stage = Stage::kWhole;  // kPrefill: the answer is made elsewhere
  };

  void reserve(std::size_t candidates) { rows_.reserve(candidates); }
  void clear() noexcept { rows_.clear(); }
  void add(Slot slot, double cost, std::initializer_list<double> terms,
           Stage stage = Stage::kWhole) noexcept;

  [[nodiscard]] std::span<const Row> rows() const noexcept { return rows_; }

 private:
  std::vector<Row> rows_;
};

struct Choice {
  Slot slot = 0;
  std::string_view rule;   // which of the policy's rules decided; static text
  std::uint32_t ties = 1;  // how many were as good
  double cost = 0;         // of the chosen one, in the policy's unit
  /// Until the first token, as the policy predicts it; NaN: it does not.
  double ttft_ms = std::numeric_limits<double>::quiet_NaN();
  Stage stage = Stage::kWhole;  // of pick_part(): what runs there, kWhole or kPrefill
};

/// A rule for where a request runs. Pure: the same history of questions, the same choices; whatever
/// is random comes from `rng`. Cost: O(candidates), no allocation but after the fleet's membership
/// has changed. Not thread safe.
class Policy {
 public:
  /// What has to be looked up before it can choose.
  struct Needs {
    bool cached = false;   // Question::cached
    bool taken = false;    // which is to count what a worker has taken and not computed yet
    bool active = false;   // Question::active, FleetView::active_blocks
    bool reports = false;  // FleetView::reports, queued_tokens
    bool outputs = false;  // FleetView::output_tokens
  };

  virtual ~Policy() = default;
  [[nodiscard]] virtual Needs needs() const noexcept = 0;
  /// Names of the terms that explain() gives, with their units.
  [[nodiscard]] virtual std::span<const std::string_view> terms() const noexcept = 0;
  /// `why` may be null; it is cleared and filled otherwise.
  virtual Choice pick(const Question& question, Rng& rng, Explanation* why) = 0;

  /// As pick() for a whole request (`question`, whose candidates take whole requests), but the
  /// answer may also be made elsewhere than the prompt. A policy that predicts no times splits
  /// whenever there are workers that take nothing but prompts.
  virtual Choice pick_part(const Question& question, const Split& split, Rng& rng,
                           Explanation* why);

  /// Whether requests that come together are better placed together, by plan().
  [[nodiscard]] virtual bool plans() const noexcept { return false; }
  /// Places all of `questions` (of one stage, on one fleet): choices[i] is for questions[i].
  /// `order` gets the indices in the order in which they are to be handed to the workers.
  virtual void plan(std::span<const Question> questions, Rng& rng, std::span<Choice> choices,
                    std::span<std::uint32_t> order);

  /// A request ended well: its time to the first token, from there to the last, and how many tokens
  /// its answer had.
  virtual void finished(double ttft_ms, double decode_ms, std::uint32_t tokens) noexcept {
    (void)ttft_ms, (void)decode_ms, (void)tokens;
  }
};

/// Keeps the least cost seen and, among equal ones, each with the same chance.
class LeastCost final {
 public:
  explicit LeastCost(Rng& rng) noexcept : rng_(rng) {}
  void offer(Slot slot, double cost) noexcept {
    if (cost < cost_) {
      cost_ = cost;
      slot_ = slot;
      ties_ = 1;
    } else if (cost == cost_ && rng_.below(++ties_) == 0) {
      slot_ = slot;
    }
  }
  [[nodiscard]] bool any() const noexcept { return ties_ > 0; }
  [[nodiscard]] double cost() const noexcept { return cost_; }
  [[nodiscard]] Choice choice(std::string_view rule) const noexcept {
    return {.slot = slot_, .rule = rule, .ties = ties_, .cost = cost_};
  }

 private:
  Rng& rng_;
  double cost_ = std::numeric_limits<double>::infinity();
  Slot slot_ = 0;
  std::uint32_t ties_ = 0;
};

/// One entry of the table of policies.
struct PolicyEntry {
  std::string_view name;
  std::string_view description;  // one line
  std::unique_ptr<Policy> (*make)();
};

/// All policies, the default first.
[[nodiscard]] std::span<const PolicyEntry> policies() noexcept;
/// Null: there is none of that name.
[[nodiscard]] const PolicyEntry* find_policy(std::string_view name) noexcept;

}  // namespace penstock::router
