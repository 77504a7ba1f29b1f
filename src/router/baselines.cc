// Rules that look at load alone.

#include "router/peers.h"

namespace penstock::router {
namespace {

constexpr std::string_view kInFlight[] = {"requests in flight"};

/// For rules that do not weigh them.
void explain_without_costs(const Question& q, Explanation* why) {
  if (why == nullptr) return;
  why->clear();
  for (const Slot slot : q.candidates) why->add(slot, kNoCost, {});
}

class RoundRobin final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  Choice pick(const Question& q, Rng&, Explanation* why) override {
    explain_without_costs(q, why);
    return {.slot = q.candidates[q.ordinal % q.candidates.size()], .rule = "turn"};
  }
};

class Random final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    explain_without_costs(q, why);
    const auto count = static_cast<std::uint32_t>(q.candidates.size());
    return {.slot = q.candidates[rng.below(count)], .rule = "draw", .ties = count};
  }
};

class LeastLoaded final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kInFlight;
  }
  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    return fewest_requests(q, q.candidates, rng, why, "fewest requests");
  }
};

class PowerOfTwo final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kInFlight;
  }
  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    const auto count = static_cast<std::uint32_t>(q.candidates.size());
    if (count == 1) return fewest_requests(q, q.candidates, rng, why, "only one");
    // Two different ones, each pair with the same chance.
    const std::uint32_t first = rng.below(count);
    const std::uint32_t second = (first + 1 + rng.below(count - 1)) % count;
    const Slot two[] = {q.candidates[first], q.candidates[second]};
    return fewest_requests(q, two, rng, why, "better of two");
  }
};

}  // namespace

Choice fewest_requests(const Question& q, std::span<const Slot> slots, Rng& rng, Explanation* why,
                       std::string_view rule) {
  LeastCost least(rng);
  for (const Slot slot : slots) {
    const double requests = q.fleet.requests[slot];
    least.offer(slot, requests);
    if (why != nullptr) {
      why->add(slot, requests, {requests, static_cast<double>(q.cached_blocks(slot))});
    }
  }
  return least.choice(rule);
}

std::unique_ptr<Policy> make_round_robin() { return std::make_unique<RoundRobin>(); }
std::unique_ptr<Policy> make_random() { return std::make_unique<Random>(); }
std::unique_ptr<Policy> make_least_loaded() { return std::make_unique<LeastLoaded>(); }
std::unique_ptr<Policy> make_power_of_two() { return std::make_unique<PowerOfTwo>(); }

}  // namespace penstock::router
