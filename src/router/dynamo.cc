// Dynamo's KV router with its default weights: what a worker would have to compute, in blocks, plus
// the blocks its requests would then keep.

#include <algorithm>

#include "router/peers.h"

namespace penstock::router {
namespace {

constexpr std::string_view kDynamoTerms[] = {"prefill blocks", "active blocks",
                                             "new active blocks"};

/// Whole and prefill: cost = max(0, (P + prompt) / block - overlap) + D + (full - shared), where P
/// is what was given to the worker and has no first token yet, in uncached tokens; D the distinct
/// prompt blocks of its requests, and `shared` those leading blocks of this prompt among them. The
/// prefill stage leaves D, full and shared out. Decode: the prompt blocks resident plus this
/// prompt's, with no reuse assumed.
class Dynamo final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true, .active = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kDynamoTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      double prefill = 0;
      double active = 0;
      double added = 0;
      if (q.stage == Stage::kDecode) {
        active = static_cast<double>(q.fleet.prompt_blocks[slot]);
        added = q.prompt_blocks;
      } else {
        const auto tokens = static_cast<double>(q.fleet.prefill_tokens[slot] + q.prompt_tokens);
        prefill = std::max(0.0, tokens / q.block_tokens - q.cached_blocks(slot));
      }
      if (q.stage == Stage::kWhole) {
        active = static_cast<double>(q.fleet.active_blocks[slot]);
        added = q.prompt_blocks - (slot < q.active.size() ? q.active[slot] : 0);
      }
      const double cost = prefill + (active + added);
      least.offer(slot, cost);
      if (why != nullptr) why->add(slot, cost, {prefill, active, added});
    }
    return least.choice("least cost");
  }
};

}  // namespace

std::unique_ptr<Policy> make_dynamo() { return std::make_unique<Dynamo>(); }

}  // namespace penstock::router
