#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "router/outlook.h"

namespace penstock::router {

/// The Glance of each slot, an array a quantity: a choice computes the bound of every worker, and
/// the compiler can compute several at once. Allocates in resize() only.
class Glances final {
 public:
  void resize(std::size_t slots) {
    free_at_.resize(slots);
    start_ms_.resize(slots);
    token_ms_.resize(slots);
    step_ms_.resize(slots);
    least_ms_.resize(slots);
  }
  void set(Slot slot, const Glance& glance) noexcept {
    free_at_[slot] = glance.free_at;
    start_ms_[slot] = glance.start_ms;
    token_ms_[slot] = glance.token_ms;
    step_ms_[slot] = glance.step_ms;
  }
  [[nodiscard]] Glance operator[](Slot slot) const noexcept {
    return {.free_at = free_at_[slot],
            .start_ms = start_ms_[slot],
            .token_ms = token_ms_[slot],
            .step_ms = step_ms_[slot]};
  }

  /// Glance::least_ms() of each slot, candidate or not, were its running pass over. The
  /// caller's until the next call.
  [[nodiscard]] std::span<double> least_ms(const Question& q, double steps,
                                           const Prices& prices) noexcept {
    const std::size_t slots = least_ms_.size();
    if (q.loads.empty() && q.cached.size() == slots) {
      bound(q, steps, prices, [&](std::size_t i) { return q.cached[i]; });
    } else {
      bound(q, steps, prices, [&](std::size_t i) {
        const auto slot = static_cast<Slot>(i);
        return q.cached_blocks(slot) + q.load(slot).blocks;
      });
    }
    return least_ms_;
  }

 private:
  /// `blocks`: of the prompt, that need not be computed at a slot.
  void bound(const Question& q, double steps, Prices prices, auto blocks) noexcept {
    // An engine computes at least the last token. In whole numbers, so as new_tokens() has it.
    const std::uint32_t most_blocks = (q.prompt_tokens - 1) / q.block_tokens;
    const double most = most_blocks;
    const double block_tokens = q.block_tokens;
    const double prompt_tokens = q.prompt_tokens;
    const std::size_t slots = least_ms_.size();
    for (std::size_t i = 0; i < slots; ++i) {
      // Signed, since that is what vectors convert.
      const double there = static_cast<std::int32_t>(blocks(i));
      const double tokens = prompt_tokens - std::min(there, most) * block_tokens;
      const Glance glance{
          .start_ms = start_ms_[i], .token_ms = token_ms_[i], .step_ms = step_ms_[i]};
      least_ms_[i] = glance.least_ms(tokens, steps, 0, prices);
    }
  }

  std::vector<TimePoint> free_at_;
  std::vector<double> start_ms_;
  std::vector<double> token_ms_;
  std::vector<double> step_ms_;
  std::vector<double> least_ms_;  // of the choice being made
};

}  // namespace penstock::router
