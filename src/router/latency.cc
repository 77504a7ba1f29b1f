#include "router/latency.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace penstock::router {
namespace {

constexpr std::string_view kTerms[] = {"added cost ms",       "running pass ms",  "queued tokens",
                                       "own uncached tokens", "decoding streams", "KV blocks"};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::uint32_t kPassTokensDefault = 8192;
constexpr std::uint32_t kRounds = 10;
constexpr std::size_t kSwapMax = 64;
constexpr std::size_t kMoveMax = 400;
constexpr double kEpsilonMs = 1e-6;

/// A mean over about the last kWindow values, from a prior.
class Mean final {
 public:
  explicit Mean(double prior) : mean_(prior) {}
  void add(double value) noexcept {
    count_ = std::min(count_ + 1, kWindow);
    mean_ += (value - mean_) / count_;
  }
  [[nodiscard]] double value() const noexcept { return mean_; }

 private:
  static constexpr double kWindow = 1000;
  double mean_;
  double count_ = 1;
};

/// A prompt to be computed: new tokens, and KV blocks it will take.
struct Item {
  std::uint32_t question = 0;
  double tokens = 0;
  double blocks = 0;
};

/// What a worker will do, up to the pass that is being filled.
struct Tail {
  double start_ms = 0;    // of the pass being filled, from now
  double tokens = 0;      // prompt tokens in it
  double ending = 0;      // prompts that end in it
  double decoding = 0;    // streams that decode when it starts
  double blocks = 0;      // KV in use, with that of the prompts queued
  double waited_ms = 0;   // first-token times of prompts that ended in passes closed since
  double stalled_ms = 0;  // prefill time x streams that stood still for it, in those
};

/// One worker while a choice is made.
class Outlook final {
 public:
  void begin(const Question& q, Slot slot, double decode_ms_mean) {
    const fleet::FleetView& fleet = q.fleet;
    const fleet::WorkerReport& report = fleet.reports[slot];
    cost_ = fleet.cost[slot];
    room_ = cost_.pass_tokens_max > 0 ? cost_.pass_tokens_max : kPassTokensDefault;
    capacity_ = report.kv_blocks_max > 0 ? report.kv_blocks_max : kInfinity;
    block_ms_ = report.kv_blocks_used > 0 ? decode_ms_mean / report.kv_blocks_used : 0;
    use_ = std::min(1.0, report.kv_blocks_used / capacity_);
    tail_ = {};
    queued_tokens_ = 0;
    tail_.blocks = report.kv_blocks_used;
    const std::vector<fleet::QueuedPrefill>& queue = fleet.queues[slot];
    std::size_t whole = queue.size();  // of the queue's end, not begun
    if (report.generation > 0) {
      if (report.pass_started != TimePoint::min()) {
        const double took = cost_.prefill_ms(report.pass.prefill_tokens) +
                            (report.pass.decodes ? cost_.decode_ms(report.pass.kv_use) : 0);
        rest_ms_ = std::max(0.0, took - to_ms(q.now - report.pass_started));
      } else {
        rest_ms_ = 0;
      }
      const bool partial = report.running_prefill_tokens_left > 0;
      tail_.decoding = std::max(0.0, report.running - (partial ? 1.0 : 0.0));
      whole = std::min<std::size_t>(queue.size(), report.waiting + fleet.unseen[slot]);
      tail_.start_ms = rest_ms_;
      if (partial) feed(tail_, static_cast<double>(report.running_prefill_tokens_left), 0);
    } else {
      rest_ms_ = 0;
      tail_.decoding = fleet.requests[slot] - fleet.prefills[slot];
    }
    for (std::size_t i = queue.size() - whole; i < queue.size(); ++i) {
      feed(tail_, queue[i].uncached_tokens, queue[i].new_blocks);
      queued_tokens_ += queue[i].uncached_tokens;
    }
    // What ends in passes that are full by now cannot change any more.
    tail_.waited_ms = tail_.stalled_ms = 0;
    plan.clear();
    base = 0;
  }

  /// Appends one prompt.
  void feed(Tail& tail, double tokens, double blocks) const {
    tail.blocks += blocks;
    if (tail.blocks > capacity_) {
      // Waits at the head of the queue until answers have let go of as many blocks.
      const double ready_ms = (tail.blocks - capacity_) * block_ms_;
      if (tail.start_ms < ready_ms) {
        if (tail.tokens > 0) close(tail);
        tail.start_ms = std::max(tail.start_ms, ready_ms);
      }
    }
    while (true) {
      const double room = std::max(1.0, room_ - tail.decoding - tail.ending) - tail.tokens;
      if (tokens <= room) {
        tail.tokens += tokens;
        ++tail.ending;
        return;
      }
      if (room > 0) {
        tail.tokens += room;
        tokens -= room;
      }
      close(tail);
    }
  }

  void close(Tail& tail) const {
    const double prefill_ms = cost_.prefill_ms(tail.tokens);
    const bool decodes = tail.decoding + tail.ending > 0;
    tail.start_ms += prefill_ms + (decodes ? cost_.decode_ms(use_) : 0);
    tail.waited_ms += tail.ending * tail.start_ms;
    tail.stalled_ms += prefill_ms * tail.decoding;
    tail.decoding += tail.ending;
    tail.ending = tail.tokens = 0;
  }

  /// Of the plan with `with` put in its place (null: as it is) and without question `without`.
  [[nodiscard]] double cost(double lambda, const Item* with = nullptr,
                            std::uint32_t without = ~0U) const {
    Tail tail = tail_;
    for (const Item& item : plan) {
      if (item.question == without) continue;
      if (with != nullptr && with->tokens < item.tokens) {
        feed(tail, with->tokens, with->blocks);
        with = nullptr;
      }
      feed(tail, item.tokens, item.blocks);
    }
    if (with != nullptr) feed(tail, with->tokens, with->blocks);
    if (tail.tokens > 0 || tail.ending > 0) close(tail);
    return tail.waited_ms + lambda * tail.stalled_ms;
  }

  /// Smallest first; among equal ones in order of arrival.
  void insert(const Item& item) {
    const auto place =
        std::ranges::find_if(plan, [&](const Item& other) { return item.tokens < other.tokens; });
    plan.insert(place, item);
  }
  void take_out(std::uint32_t question) {
    std::erase_if(plan, [&](const Item& item) { return item.question == question; });
  }

  [[nodiscard]] double rest_ms() const noexcept { return rest_ms_; }
  [[nodiscard]] double queued_tokens() const noexcept { return queued_tokens_; }
  [[nodiscard]] const Tail& tail() const noexcept { return tail_; }

  std::vector<Item> plan;  // smallest first
  double base = 0;         // cost of the plan

 private:
  fleet::PassCost cost_;
  double room_ = kPassTokensDefault;
  double capacity_ = kInfinity;
  double block_ms_ = 0;  // until a block in use is let go, the mean over all
  double use_ = 0;
  double rest_ms_ = 0;
  double queued_tokens_ = 0;
  Tail tail_;
};

Item item_of(const Question& q, std::uint32_t index, Slot slot) noexcept {
  const std::uint32_t hit = std::min(q.cached_blocks(slot), (q.prompt_tokens - 1) / q.block_tokens);
  return {.question = index,
          .tokens = static_cast<double>(q.prompt_tokens - hit * q.block_tokens),
          .blocks = static_cast<double>(q.prompt_blocks + 1 - hit)};
}

class Latency final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override { return {.cached = true, .reports = true}; }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override { return kTerms; }
  [[nodiscard]] bool plans() const noexcept override { return true; }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    if (q.stage == Stage::kDecode) return pick_decode(q, rng, why);
    LeastCost least(rng);
    Outlook& outlook = scratch();
    for (const Slot slot : q.candidates) {
      outlook.begin(q, slot, decode_ms_.value());
      const Item item = item_of(q, 0, slot);
      const double added = outlook.cost(lambda(), &item) - outlook.cost(lambda());
      least.offer(slot, added);
      if (why != nullptr) {
        why->add(slot, added,
                 {added, outlook.rest_ms(), outlook.queued_tokens(), item.tokens,
                  outlook.tail().decoding, outlook.tail().blocks});
      }
    }
    return least.choice("least added ms");
  }

  void plan(std::span<const Question> questions, Rng& rng, std::span<Choice> choices,
            std::span<std::uint32_t> order) override {
    if (questions.front().stage == Stage::kDecode) {
      return Policy::plan(questions, rng, choices, order);
    }
    start_plan(questions);
    for (const std::uint32_t i : largest_first_) put(questions, i);
    improve(questions);
    const std::span<const Slot> slots = questions.front().candidates;
    std::size_t next = 0;
    for (std::size_t w = 0; w < slots.size(); ++w) {
      for (const Item& item : outlooks_[w].plan) {
        choices[item.question] = {.slot = slots[w], .rule = "planned together"};
        order[next++] = item.question;
      }
    }
  }

  void finished(double ttft_ms, double decode_ms) noexcept override {
    ttft_ms_.add(ttft_ms);
    decode_ms_.add(decode_ms);
  }

 private:
  /// The least KV in use, this prompt's included: decoding costs by use, whoever it is for.
  static Choice pick_decode(const Question& q, Rng& rng, Explanation* why) {
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      const double blocks = static_cast<double>(q.fleet.prompt_blocks[slot]) + q.prompt_blocks;
      least.offer(slot, blocks);
      if (why != nullptr) {
        why->add(slot, blocks, {blocks, 0, 0, 0, static_cast<double>(q.fleet.requests[slot])});
      }
    }
    return least.choice("least KV");
  }

  [[nodiscard]] double lambda() const noexcept {
    return std::min(kLambdaMax, ttft_ms_.value() / std::max(1.0, decode_ms_.value()));
  }

  Outlook& scratch() {
    if (outlooks_.empty()) outlooks_.resize(1);
    return outlooks_.front();
  }

  void start_plan(std::span<const Question> questions) {
    const std::span<const Slot> slots = questions.front().candidates;
    if (outlooks_.size() < slots.size()) outlooks_.resize(slots.size());
    for (std::size_t w = 0; w < slots.size(); ++w) {
      outlooks_[w].begin(questions.front(), slots[w], decode_ms_.value());
      outlooks_[w].base = outlooks_[w].cost(lambda());
    }
    at_.assign(questions.size(), 0);
    least_tokens_.clear();
    largest_first_.clear();
    for (std::uint32_t i = 0; i < questions.size(); ++i) {
      double least = kInfinity;
      for (const Slot slot : slots) least = std::min(least, item_of(questions[i], i, slot).tokens);
      least_tokens_.push_back(least);
      largest_first_.push_back(i);
    }
    std::ranges::sort(largest_first_, [&](std::uint32_t a, std::uint32_t b) {
      return least_tokens_[a] != least_tokens_[b] ? least_tokens_[a] > least_tokens_[b] : a < b;
    });
  }

  /// Where it adds least; equal workers in turn with their place, so that nothing is random here.
  void put(std::span<const Question> questions, std::uint32_t i) {
    const Question& q = questions[i];
    double best = kInfinity;
    std::uint32_t chosen = 0;
    for (std::uint32_t w = 0; w < q.candidates.size(); ++w) {
      const Item item = item_of(q, i, q.candidates[w]);
      const double added = outlooks_[w].cost(lambda(), &item) - outlooks_[w].base;
      if (added < best) {
        best = added;
        chosen = w;
      }
    }
    outlooks_[chosen].insert(item_of(q, i, q.candidates[chosen]));
    outlooks_[chosen].base = outlooks_[chosen].cost(lambda());
    at_[i] = chosen;
  }

  void improve(std::span<const Question> questions) {
    if (questions.size() > kMoveMax) return;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      bool moved = false;
      for (const std::uint32_t i : largest_first_) {
        const std::uint32_t before = at_[i];
        outlooks_[before].take_out(i);
        outlooks_[before].base = outlooks_[before].cost(lambda());
        put(questions, i);
        moved |= at_[i] != before;
      }
      if (questions.size() <= kSwapMax) moved |= swap_all(questions);
      if (!moved) return;
    }
  }

  bool swap_all(std::span<const Question> questions) {
    bool swapped = false;
    for (std::uint32_t a = 0; a < questions.size(); ++a) {
      for (std::uint32_t b = a + 1; b < questions.size(); ++b) {
        if (at_[a] != at_[b]) swapped |= swap(questions, a, b);
      }
    }
    return swapped;
  }

  bool swap(std::span<const Question> questions, std::uint32_t a, std::uint32_t b) {
    Outlook& at_a = outlooks_[at_[a]];
    Outlook& at_b = outlooks_[at_[b]];
    const std::span<const Slot> slots = questions.front().candidates;
    const Item a_there = item_of(questions[a], a, slots[at_[b]]);
    const Item b_there = item_of(questions[b], b, slots[at_[a]]);
    const double cost_a = at_a.cost(lambda(), &b_there, a);
    const double cost_b = at_b.cost(lambda(), &a_there, b);
    if (cost_a + cost_b >= at_a.base + at_b.base - kEpsilonMs) return false;
    at_a.take_out(a);
    at_b.take_out(b);
    at_a.insert(b_there);
    at_b.insert(a_there);
    at_a.base = cost_a;
    at_b.base = cost_b;
    std::swap(at_[a], at_[b]);
    return true;
  }

  static constexpr double kLambdaMax = 0.25;

  Mean ttft_ms_{300};
  Mean decode_ms_{3000};
  std::vector<Outlook> outlooks_;  // by candidate
  std::vector<std::uint32_t> at_;  // where each question is planned
  std::vector<double> least_tokens_;
  std::vector<std::uint32_t> largest_first_;
};

}  // namespace

std::unique_ptr<Policy> make_latency() { return std::make_unique<Latency>(); }

}  // namespace penstock::router
