// llm-d's scheduler: the sticky rule that is its default since August 2026, and the weighted sum
// before it with the weights 3-2-2.

#include <algorithm>

#include "router/peers.h"

namespace penstock::router {
namespace {

constexpr std::string_view kStickyTerms[] = {"token load", "hit fraction", "queued ms"};
constexpr std::string_view kWeightedTerms[] = {"prefix score", "queue score", "KV score"};

/// Sticky until saturated: the holders of kAffinity of the prefix, unless the soonest of them would
/// start kPenaltyMaxMs later than the soonest of the others; among those the least in-flight
/// uncached tokens, this prompt's included. Decode: the fewest requests. Ties at random.
class PrefixSticky final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kStickyTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    if (q.stage == Stage::kDecode) {
      return fewest_requests(q, q.candidates, rng, why, "fewest requests");
    }
    LeastCost least(rng);
    const bool sticky = sticks(q);
    for (const Slot slot : q.candidates) {
      const double load =
          static_cast<double>(q.fleet.prefill_tokens[slot] + q.uncached_tokens(slot));
      const bool considered = !sticky || q.cached_fraction(slot) >= kAffinity;
      if (considered) least.offer(slot, load);
      if (why != nullptr) {
        why->add(slot, considered ? load : kInfinity,
                 {load, q.cached_fraction(slot), queued_ms(q, slot)});
      }
    }
    return least.choice(sticky ? "sticky" : "spread");
  }

 private:
  static constexpr double kAffinity = 0.8;
  static constexpr double kPenaltyMaxMs = 18'000;
  static constexpr double kPeakPrefillTokensPerS = 15'928;  // Qwen3-32B on two H100

  static double queued_ms(const Question& q, Slot slot) noexcept {
    return static_cast<double>(q.fleet.prefill_tokens[slot]) / kPeakPrefillTokensPerS * 1e3;
  }

  static bool sticks(const Question& q) noexcept {
    double holders_ms = kInfinity;
    double others_ms = kInfinity;
    for (const Slot slot : q.candidates) {
      double& least_ms = q.cached_fraction(slot) >= kAffinity ? holders_ms : others_ms;
      least_ms = std::min(least_ms, queued_ms(q, slot));
    }
    return holders_ms < kInfinity && holders_ms - others_ms <= kPenaltyMaxMs;
  }
};

/// The highest of 3 x hit fraction + 2 x (max - q) / (max - min) + 2 x (1 - KV use), where q is the
/// worker's waiting requests; ties at random.
class Weighted final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true, .reports = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kWeightedTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    double most = 0;
    double fewest = kInfinity;
    for (const Slot slot : q.candidates) {
      most = std::max<double>(most, q.fleet.reports[slot].waiting);
      fewest = std::min<double>(fewest, q.fleet.reports[slot].waiting);
    }
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      const fleet::WorkerReport& report = q.fleet.reports[slot];
      const double prefix = q.stage == Stage::kDecode ? 0 : q.cached_fraction(slot);
      const double queue = most > fewest ? (most - report.waiting) / (most - fewest) : 1;
      const double kv = report.kv_blocks_max == 0
                            ? 1
                            : 1 - static_cast<double>(report.kv_blocks_used) / report.kv_blocks_max;
      const double cost = -(3 * prefix + 2 * queue + 2 * kv);
      least.offer(slot, cost);
      if (why != nullptr) why->add(slot, cost, {prefix, queue, kv});
    }
    return least.choice("highest score");
  }
};

}  // namespace

std::unique_ptr<Policy> make_prefix_sticky() { return std::make_unique<PrefixSticky>(); }
std::unique_ptr<Policy> make_llm_d_weighted() { return std::make_unique<Weighted>(); }

}  // namespace penstock::router
