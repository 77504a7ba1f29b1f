// The policies of SMG, AIBrix and KubeAI.

#include <algorithm>
#include <cmath>

#include "router/peers.h"

namespace penstock::router {
namespace {

constexpr std::string_view kMatchTerms[] = {"requests in flight", "cached blocks"};
constexpr std::string_view kRingTerms[] = {"requests in flight", "place on the ring"};

struct Range {
  double fewest = kInfinity;
  double most = 0;
  double sum = 0;
  double squares = 0;
};

Range range_of_requests(const Question& q) noexcept {
  Range range;
  for (const Slot slot : q.candidates) {
    const double requests = q.fleet.requests[slot];
    range.fewest = std::min(range.fewest, requests);
    range.most = std::max(range.most, requests);
    range.sum += requests;
    range.squares += requests * requests;
  }
  return range;
}

/// The deepest match among those with at most `requests_max` in flight, then the fewest requests.
/// Both fit into one number, since requests in flight are far below 2^20.
Choice deepest_match(const Question& q, Rng& rng, Explanation* why, double requests_max) {
  constexpr double kBlock = 1 << 20;
  LeastCost least(rng);
  for (const Slot slot : q.candidates) {
    const double requests = q.fleet.requests[slot];
    const double blocks = q.cached_blocks(slot);
    const bool considered = requests <= requests_max;
    const double cost = considered ? requests - blocks * kBlock : kInfinity;
    if (considered) least.offer(slot, cost);
    if (why != nullptr) why->add(slot, cost, {requests, blocks});
  }
  return least.choice("best match");
}

/// When max - min > 64 requests and max > 1.5 min: the shortest queue. Else the best match if it is
/// over 30 % of the prompt, ties by load; else the least loaded. Ties at random. The original
/// breaks further ties by the smaller tree.
class SmgCacheAware final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kMatchTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    const Range load = range_of_requests(q);
    if (load.most - load.fewest > kBalanceAbs && load.most > kBalanceRel * load.fewest) {
      return fewest_requests(q, q.candidates, rng, why, "shortest queue");
    }
    double best = 0;
    for (const Slot slot : q.candidates) best = std::max(best, q.cached_fraction(slot));
    if (q.stage == Stage::kDecode || best <= kMatchMin) {
      return fewest_requests(q, q.candidates, rng, why, "least loaded");
    }
    return deepest_match(q, rng, why, kInfinity);
  }

 private:
  static constexpr double kBalanceAbs = 64;
  static constexpr double kBalanceRel = 1.5;
  static constexpr double kMatchMin = 0.3;
};

/// When max - min > 16 requests: the least running. Else the best match among those within two
/// standard deviations of the mean; without a match the least running. Ties at random.
class AibrixPrefix final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kMatchTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    const Range load = range_of_requests(q);
    if (load.most - load.fewest > kImbalance)
      return fewest_requests(q, q.candidates, rng, why, "least running");
    const auto count = static_cast<double>(q.candidates.size());
    const double mean = load.sum / count;
    const double deviation = std::sqrt(std::max(0.0, load.squares / count - mean * mean));
    const double requests_max = mean + 2 * deviation;
    bool matched = false;
    for (const Slot slot : q.candidates) {
      matched |= q.cached_blocks(slot) > 0 && q.fleet.requests[slot] <= requests_max;
    }
    if (q.stage == Stage::kDecode || !matched) {
      return fewest_requests(q, q.candidates, rng, why, "least running");
    }
    return deepest_match(q, rng, why, requests_max);
  }

 private:
  static constexpr double kImbalance = 16;
};

/// Consistent hashing with bounded loads: from the prompt's place on a ring of 256 points a worker,
/// the first worker whose requests are within 125 % of the mean with this one counted.
class BoundedHash final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kRingTerms;
  }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (membership_ != q.fleet.membership || ring_.empty()) build(q.fleet);
    const double limit =
        kLoadFactor * (range_of_requests(q).sum + 1) / static_cast<double>(q.candidates.size());
    const auto start = std::ranges::lower_bound(ring_, q.prefix_key, {}, &Point::at);
    const auto first = static_cast<std::size_t>(start - ring_.begin());
    if (why != nullptr) explain(q, first, limit, *why);
    for (std::size_t i = 0; i < ring_.size(); ++i) {
      const Point& point = ring_[(first + i) % ring_.size()];
      if (!std::ranges::binary_search(q.candidates, point.slot)) continue;
      const double requests = q.fleet.requests[point.slot];
      if (requests <= limit) {
        return {.slot = point.slot, .rule = i == 0 ? "owner" : "next", .cost = requests};
      }
    }
    return fewest_requests(q, q.candidates, rng, nullptr, "least loaded");
  }

 private:
  static constexpr std::uint32_t kPoints = 256;
  static constexpr double kLoadFactor = 1.25;
  struct Point {
    std::uint64_t at;
    Slot slot;
    friend auto operator<=>(const Point&, const Point&) = default;
  };

  /// Each candidate once, in the order in which the ring comes to them from the prompt's place.
  void explain(const Question& q, std::size_t first, double limit, Explanation& why) {
    why.clear();
    met_.assign(q.fleet.slots(), false);
    for (std::size_t i = 0; i < ring_.size() && why.rows().size() < q.candidates.size(); ++i) {
      const Slot slot = ring_[(first + i) % ring_.size()].slot;
      if (met_[slot] || !std::ranges::binary_search(q.candidates, slot)) continue;
      met_[slot] = true;
      const double requests = q.fleet.requests[slot];
      why.add(slot, requests <= limit ? requests : kInfinity,
              {requests, static_cast<double>(why.rows().size())});
    }
  }

  /// The ring has every slot; who may not be chosen is stepped over, so that others keep theirs.
  void build(const fleet::FleetView& fleet) {
    membership_ = fleet.membership;
    ring_.clear();
    for (Slot slot = 0; slot < fleet.slots(); ++slot) {
      for (std::uint32_t i = 0; i < kPoints; ++i) {
        ring_.push_back(
            {mix64((std::uint64_t{slot} * kPoints + i + 1) * 0x9e3779b97f4a7c15ULL), slot});
      }
    }
    std::ranges::sort(ring_);
  }

  std::uint64_t membership_ = 0;
  std::vector<Point> ring_;
  std::vector<bool> met_;  // scratch, by slot
};

}  // namespace

std::unique_ptr<Policy> make_smg_cache_aware() { return std::make_unique<SmgCacheAware>(); }
std::unique_ptr<Policy> make_aibrix_prefix() { return std::make_unique<AibrixPrefix>(); }
std::unique_ptr<Policy> make_bounded_hash() { return std::make_unique<BoundedHash>(); }

}  // namespace penstock::router
