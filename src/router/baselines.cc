// Rules that look at load alone.

#include "router/peers.h"

namespace penstock::router {
namespace {

constexpr std::string_view kInFlight[] = {"requests in flight"};

class RoundRobin final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  Choice pick(const Question& q, Rng&, Explanation* why) override {
    if (why != nullptr) why->clear();
    return {.slot = q.candidates[q.ordinal % q.candidates.size()], .rule = "turn"};
  }
};

class Random final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return {}; }
  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
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
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      const double cost = q.fleet.requests[slot];
      least.offer(slot, cost);
      if (why != nullptr) why->add(slot, cost, {cost});
    }
    return least.choice("fewest requests");
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
    if (count == 1) return {.slot = q.candidates[0], .rule = "only one"};
    // Two different ones, each pair with the same chance.
    const std::uint32_t first = rng.below(count);
    const std::uint32_t second = (first + 1 + rng.below(count - 1)) % count;
    LeastCost least(rng);
    for (const std::uint32_t i : {first, second}) {
      const Slot slot = q.candidates[i];
      const double cost = q.fleet.requests[slot];
      least.offer(slot, cost);
      if (why != nullptr) why->add(slot, cost, {cost});
    }
    return least.choice("better of two");
  }
};

}  // namespace

std::unique_ptr<Policy> make_round_robin() { return std::make_unique<RoundRobin>(); }
std::unique_ptr<Policy> make_random() { return std::make_unique<Random>(); }
std::unique_ptr<Policy> make_least_loaded() { return std::make_unique<LeastLoaded>(); }
std::unique_ptr<Policy> make_power_of_two() { return std::make_unique<PowerOfTwo>(); }

}  // namespace penstock::router
