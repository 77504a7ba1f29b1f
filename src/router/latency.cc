#include "router/latency.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "router/glances.h"
#include "router/outlook.h"

namespace penstock::router {
namespace {

constexpr std::string_view kLatencyTerms[] = {
    "first token ms", "others' waiting ms", "stalled ms", "steps ms", "work ms", "home ms",
    "load ms",        "uncached tokens"};
constexpr std::uint32_t kRounds = 10;
constexpr std::size_t kSwapMax = 64;
constexpr std::size_t kMoveMax = 400;
constexpr double kEpsilonMs = 1e-6;
constexpr double kStreamPriceMax = 0.25;
constexpr double kWorkPrice = 2;
constexpr double kBacklogWindow = 50;  // questions
constexpr double kColdMax = 0.5;       // of a prompt, that some worker may hold
constexpr double kSplitGain = 0.9;     // of the whole's cost: two predictions err more than one
constexpr double kFollowersMax = 20;   // of a prompt, that are counted on
constexpr double kReuseWindow = 100;   // questions

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

/// Who is in time goes before who is not; then who costs less.
constexpr bool goes_before(bool late, double cost, bool other_late, double other_cost) noexcept {
  return late != other_late ? other_late : cost < other_cost;
}

/// The first of them.
Slot most_cached(const Question& q) noexcept {
  std::uint32_t most = 0;
  if (q.candidates.size() == q.cached.size() && q.candidates.back() < q.cached.size()) {
    // All there are, as usual: then the compiler looks at several at once.
    for (const std::uint32_t blocks : q.cached) most = std::max(most, blocks);
    return static_cast<Slot>(std::ranges::find(q.cached, most) - q.cached.begin());
  }
  for (const Slot slot : q.candidates) most = std::max(most, q.cached_blocks(slot));
  return *std::ranges::find(q.candidates, most, [&](Slot slot) { return q.cached_blocks(slot); });
}

/// Item::cold, whoever takes it.
double cold_blocks(const Question& q, Slot most_cached) noexcept {
  return q.cached_blocks(most_cached) > kColdMax * q.prompt_blocks ? 0 : q.prompt_blocks;
}

/// Of the prompt, that the worker has as computed: an engine computes at least the last token.
std::uint32_t hit_blocks(const Question& q, Slot slot) noexcept {
  const std::uint32_t cached = q.cached_blocks(slot);
  return cached * q.block_tokens < q.prompt_tokens ? cached
                                                   : (q.prompt_tokens - 1) / q.block_tokens;
}

/// Of the prompt, that the worker computes.
double new_tokens(const Question& q, Slot slot) noexcept {
  const std::uint32_t most = (q.prompt_tokens - 1) / q.block_tokens;
  const std::uint32_t blocks = std::min(q.cached_blocks(slot) + q.load(slot).blocks, most);
  return static_cast<double>(q.prompt_tokens - blocks * q.block_tokens);
}

double load_ms(const Question& q, Slot slot) noexcept { return q.load(slot).load_ns / 1e6; }

Item item_of(const Question& q, std::uint32_t index, Slot slot, double cold) noexcept {
  return {.question = index,
          .tokens = new_tokens(q, slot),
          .blocks = static_cast<double>(q.prompt_blocks + 1 - hit_blocks(q, slot)),
          .load_ms = load_ms(q, slot),
          .cold = cold,
          .steps_max = static_cast<double>(q.output_tokens_max)};
}

/// A worker's share of a plan.
struct Share {
  std::vector<Item> items;  // smallest first; among equal ones in order of arrival
  double rest_ms = 0;
  double cost = 0;  // of the items as they are

  void insert(const Item& item) {
    const auto place =
        std::ranges::find_if(items, [&](const Item& other) { return item.tokens < other.tokens; });
    items.insert(place, item);
  }
  void take_out(std::uint32_t question) {
    std::erase_if(items, [&](const Item& item) { return item.question == question; });
  }
};

class Latency final : public Policy {
 public:
  [[nodiscard]] Needs needs() const noexcept override {
    return {.cached = true, .taken = true, .reports = true};
  }
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept override {
    return kLatencyTerms;
  }
  [[nodiscard]] bool plans() const noexcept override { return true; }

  Choice pick(const Question& q, Rng& rng, Explanation* why) override {
    if (why != nullptr) why->clear();
    if (q.stage == Stage::kDecode) return pick_decode(q, rng, why);
    refresh(q);
    const Prices prices = this->prices();
    const Slot holder = most_cached(q);
    const double cold = cold_blocks(q, holder);
    const double steps = std::min<double>(answer_steps_, q.output_tokens_max);
    double limit = why == nullptr ? added_at(q, holder, cold).cost(prices) : kInfinity;
    const std::span<double> least_ms = glances_.least_ms(q, steps, prices);
    least_ms[holder] = -kInfinity;  // rounded, it could be over its own cost
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      // Most cannot win whatever their running pass does.
      if (least_ms[slot] > limit) continue;
      const Glance glance = glances_[slot];
      const double rest_ms = glance.rest_ms(q.now);
      const Item item = item_of(q, 0, slot, cold);
      if (glance.least_ms(item.tokens, steps, rest_ms, prices) > limit && slot != holder) continue;
      const Added added = outlooks_[slot].added(item, rest_ms);
      const double cost = added.cost(prices);
      least.offer(slot, cost);
      if (why == nullptr) limit = std::min(limit, cost);
      if (why != nullptr) {
        why->add(slot, cost,
                 {added.first_token_ms, added.waiting_ms, added.stalled_ms, added.steps_ms,
                  added.work_ms, added.home_ms, item.load_ms, item.tokens});
      }
    }
    Choice choice = least.choice("least added ms");
    choice.ttft_ms = added_at(q, choice.slot, cold).first_token_ms;
    if (choice.ttft_ms > q.ttft_max_ms) choice = in_time(q, choice, cold, prices, rng);
    learn_reuse(q, item_of(q, 0, choice.slot, cold));
    return choice;
  }

  Choice pick_part(const Question& q, const Split& split, Rng& rng, Explanation* why) override {
    Choice choice = pick(q, rng, why);
    // Where most of it is held an answer shares its KV; little is left to compute elsewhere, and
    // what would come from there is one more copy where KV may be what is short.
    const double cold = cold_blocks(q, most_cached(q));
    if (cold == 0) return choice;
    const Prices prices = this->prices();
    find_answers(q, split, cold, prices);
    double least = choice.cost;
    bool late = choice.ttft_ms > q.ttft_max_ms;
    for (const Slot slot : split.prefill) {
      const Leg prompt = prompt_leg(q, split, slot, cold);
      // Whoever could take it whole as well must be worth it; who cannot, is there for this.
      const bool both = std::ranges::binary_search(q.candidates, slot);
      const Added added = best_answer(q, split, slot, prompt.added, prices);
      const double cost = added.cost(prices) / (both ? kSplitGain : 1);
      if (why != nullptr && cost < kInfinity) {
        why->add(slot, cost,
                 {added.first_token_ms, added.waiting_ms, added.stalled_ms, added.steps_ms,
                  added.work_ms, added.home_ms, load_ms(q, slot), prompt.tokens},
                 Stage::kPrefill);
      }
      const bool part_late = added.first_token_ms > q.ttft_max_ms;
      if (!goes_before(part_late, cost, late, least)) continue;
      least = cost;
      late = part_late;
      choice = {.slot = slot,
                .rule = "prompt elsewhere",
                .cost = cost,
                .ttft_ms = added.first_token_ms,
                .stage = Stage::kPrefill};
    }
    return choice;
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
      for (const Item& item : shares_[w].items) {
        learn_reuse(questions[item.question], item);
        choices[item.question] = {.slot = slots[w], .rule = "planned together"};
        order[next++] = item.question;
      }
    }
  }

  void finished(double ttft_ms, double decode_ms, std::uint32_t tokens) noexcept override {
    steps_.add(tokens);
    ttft_ms_.add(ttft_ms);
    decode_ms_.add(decode_ms);
  }

 private:
  /// Of those who are in time, the one where it adds least; `late`, if there is none.
  [[nodiscard]] Choice in_time(const Question& q, const Choice& late, double cold,
                               const Prices& prices, Rng& rng) const {
    LeastCost least(rng);
    for (const Slot slot : q.candidates) {
      const Added added = added_at(q, slot, cold);
      if (added.first_token_ms <= q.ttft_max_ms) least.offer(slot, added.cost(prices));
    }
    if (!least.any()) return late;
    Choice choice = least.choice("least added ms in time");
    choice.ttft_ms = added_at(q, choice.slot, cold).first_token_ms;
    return choice;
  }

  /// Where it adds least, with the KV that has to get there and what is computed there in any case.
  /// Where nobody knows what moving KV takes: the least KV in use, this prompt's included, since
  /// decoding costs by use, whoever it is for.
  Choice pick_decode(const Question& q, Rng& rng, Explanation* why) {
    LeastCost least(rng);
    if (q.transfer) {
      refresh(q);
      const Prices prices = this->prices();
      const double cold = cold_blocks(q, most_cached(q));
      const double tail = tail_tokens(q, q.tail_tokens);
      for (const Slot slot : q.candidates) {
        const Answer answer = answer_at(q, *q.transfer, tail, slot, cold, prices);
        least.offer(slot, answer.cost);
        if (why != nullptr) {
          const Added& added = answer.added;
          why->add(slot, answer.cost,
                   {added.first_token_ms + answer.moving_ms, added.waiting_ms, added.stalled_ms,
                    added.steps_ms, added.work_ms, added.home_ms, answer.moving_ms, tail});
        }
      }
      return least.choice("least added ms");
    }
    for (const Slot slot : q.candidates) {
      const double blocks = static_cast<double>(q.fleet.prompt_blocks[slot]) + q.prompt_blocks;
      least.offer(slot, blocks);
      if (why != nullptr) why->add(slot, blocks, {});
    }
    return least.choice("least KV");
  }

  /// Of a split request: its prompt, but for what the answer's worker computes in any case.
  struct Leg {
    double tokens = 0;
    Added added;
  };
  static double tail_tokens(const Question& q, std::uint32_t least) noexcept {
    const std::uint32_t part = q.prompt_tokens - q.prompt_blocks * q.block_tokens;
    return std::max({1U, part, std::min(least, q.prompt_tokens)});
  }
  [[nodiscard]] Leg prompt_leg(const Question& q, const Split& split, Slot slot,
                               double cold) const noexcept {
    Item item = item_of(q, 0, slot, cold);
    item.tokens = std::max(0.0, item.tokens - tail_tokens(q, split.tail_tokens));
    return {item.tokens, outlooks_[slot].added(item, glances_[slot].rest_ms(q.now))};
  }

  /// The other leg: the answer, and the rest of the prompt, at one worker.
  struct Answer {
    Slot slot = 0;
    Added added;
    double begins_ms = 0;  // now; by the time the prompt is there, its queue of now is gone
    double moving_ms = 0;  // the KV that it lacks
    double cost = kInfinity;
  };
  [[nodiscard]] Answer answer_at(const Question& q, const TransferCost& transfer, double tail,
                                 Slot slot, double cold, const Prices& prices) const noexcept {
    const std::uint32_t there =
        slot == q.prompt_at ? q.prompt_blocks : std::min(q.cached_blocks(slot), q.prompt_blocks);
    const double moved = q.prompt_blocks - there;
    const double rest_ms = glances_[slot].rest_ms(q.now);
    Answer answer{
        .slot = slot,
        .added = outlooks_[slot].added({.tokens = tail,
                                        .blocks = moved + 1,
                                        .cold = cold,
                                        .steps_max = static_cast<double>(q.output_tokens_max)},
                                       rest_ms),
        .begins_ms = rest_ms + glances_[slot].start_ms,
        .moving_ms = moved > 0 ? transfer.fixed_ms + transfer.block_ms * moved : 0};
    answer.cost = answer.added.cost(prices) + answer.moving_ms;
    return answer;
  }
  /// The few best places for it, whoever computes the prompt; best first.
  void find_answers(const Question& q, const Split& split, double cold,
                    const Prices& prices) noexcept {
    answers_.fill({});
    const double tail = tail_tokens(q, split.tail_tokens);
    for (const Slot slot : split.decode) {
      Answer answer = answer_at(q, split.transfer, tail, slot, cold, prices);
      for (Answer& known : answers_) {
        if (answer.cost < known.cost) std::swap(answer, known);
      }
    }
  }

  /// Both legs' effect, with the answer where that is best.
  [[nodiscard]] Added best_answer(const Question& q, const Split& split, Slot prompt_at,
                                  const Added& prompt, const Prices& prices) const noexcept {
    Added best{.first_token_ms = kInfinity};
    for (const Answer& answer : answers_) {
      if (answer.cost == kInfinity || answer.slot == prompt_at) continue;
      if (split.apart(prompt_at, answer.slot, q.now)) continue;
      const double there_ms = prompt.first_token_ms + answer.moving_ms;
      const Added legs{.first_token_ms = std::max(there_ms, answer.begins_ms) +
                                         answer.added.first_token_ms - answer.begins_ms,
                       .waiting_ms = prompt.waiting_ms + answer.added.waiting_ms,
                       .stalled_ms = prompt.stalled_ms + answer.added.stalled_ms,
                       .work_ms = prompt.work_ms + answer.added.work_ms,
                       .home_ms = prompt.home_ms + answer.added.home_ms,
                       .steps_ms = answer.added.steps_ms};
      const bool late = legs.first_token_ms > q.ttft_max_ms;
      const bool best_late = best.first_token_ms > q.ttft_max_ms;
      if (goes_before(late, legs.cost(prices), best_late, best.cost(prices))) best = legs;
    }
    return best;
  }

  [[nodiscard]] Prices prices() const noexcept {
    const double share = ttft_ms_.value() / std::max(1.0, decode_ms_.value());
    return {.stream = std::min(kStreamPriceMax, share),
            .work = kWorkPrice * backlog_,
            .home = std::min(kFollowersMax, hit_tokens_ / std::max(1.0, computed_tokens_))};
  }

  void refresh(const Question& q) {
    const fleet::FleetView& fleet = q.fleet;
    const bool answers_differ =
        differs(decode_ms_.value(), stream_ms_) || differs(steps_.value(), answer_steps_);
    if (answers_differ || fleet.slots() != outlooks_.size() ||
        fleet.revisions - revisions_ > fleet.changes.size()) {
      if (answers_differ) {
        stream_ms_ = decode_ms_.value();
        answer_steps_ = steps_.value();
      }
      outlooks_.resize(fleet.slots());
      glances_.resize(fleet.slots());
      for (Slot slot = 0; slot < fleet.slots(); ++slot) refresh(fleet, slot, answers_differ);
    } else {
      while (revisions_ < fleet.revisions) {
        refresh(fleet, fleet.changes[++revisions_ % fleet.changes.size()]);
      }
    }
    revisions_ = fleet.revisions;
    if (q.stage == Stage::kDecode) return;  // it has come before
    const auto workers = static_cast<double>(q.candidates.size());
    double queued = queued_;
    if (q.candidates.size() != outlooks_.size()) {
      queued = 0;
      for (const Slot slot : q.candidates) queued += outlooks_[slot].queued();
    }
    backlog_ += (queued / workers - backlog_) / kBacklogWindow;
  }

  /// By more than a tenth: then all outlooks are made anew, so that workers differ by what they do,
  /// not by when they were looked at.
  static bool differs(double now, double then) noexcept {
    return std::abs(now - then) > 0.1 * then;
  }

  void refresh(const fleet::FleetView& fleet, Slot slot, bool anyway = false) {
    Outlook& outlook = outlooks_[slot];
    if (!anyway && outlook.revision() == fleet.revision[slot]) return;
    queued_ -= outlook.queued();
    outlook.refresh(fleet, slot, stream_ms_, answer_steps_);
    queued_ += outlook.queued();
    glances_.set(slot, outlook.glance());
  }

  [[nodiscard]] Added added_at(const Question& q, Slot slot, double cold) const noexcept {
    return outlooks_[slot].added(item_of(q, 0, slot, cold), glances_[slot].rest_ms(q.now));
  }

  void learn_reuse(const Question& q, const Item& item) noexcept {
    hit_tokens_ += (q.prompt_tokens - item.tokens - hit_tokens_) / kReuseWindow;
    computed_tokens_ += (item.tokens - computed_tokens_) / kReuseWindow;
  }

  void start_plan(std::span<const Question> questions) {
    refresh(questions.front());
    prices_ = prices();
    slots_ = questions.front().candidates;
    if (shares_.size() < slots_.size()) shares_.resize(slots_.size());
    for (std::size_t w = 0; w < slots_.size(); ++w) {
      shares_[w].items.clear();
      shares_[w].rest_ms = glances_[slots_[w]].rest_ms(questions.front().now);
      shares_[w].cost = cost(w);
    }
    at_.assign(questions.size(), 0);
    cold_.clear();
    least_tokens_.clear();
    largest_first_.clear();
    for (std::uint32_t i = 0; i < questions.size(); ++i) {
      cold_.push_back(cold_blocks(questions[i], most_cached(questions[i])));
      double least = kInfinity;
      for (const Slot slot : slots_) least = std::min(least, item(questions, i, slot).tokens);
      least_tokens_.push_back(least);
      largest_first_.push_back(i);
    }
    std::ranges::sort(largest_first_, [&](std::uint32_t a, std::uint32_t b) {
      return least_tokens_[a] != least_tokens_[b] ? least_tokens_[a] > least_tokens_[b] : a < b;
    });
  }

  [[nodiscard]] Item item(std::span<const Question> questions, std::uint32_t i, Slot slot) const {
    return item_of(questions[i], i, slot, cold_[i]);
  }

  /// Of a worker's share, with and without.
  [[nodiscard]] double cost(std::size_t w, const Item* with = nullptr,
                            std::uint32_t without = ~0U) const noexcept {
    const Share& share = shares_[w];
    return outlooks_[slots_[w]].cost(share.items, share.rest_ms, prices_, with, without);
  }

  /// Where it adds least; equal workers in turn with their place, so that nothing is random here.
  void put(std::span<const Question> questions, std::uint32_t i) {
    double best = kInfinity;
    std::uint32_t chosen = 0;
    for (std::uint32_t w = 0; w < slots_.size(); ++w) {
      const Item with = item(questions, i, slots_[w]);
      const double added = cost(w, &with) - shares_[w].cost;
      if (added < best) {
        best = added;
        chosen = w;
      }
    }
    shares_[chosen].insert(item(questions, i, slots_[chosen]));
    shares_[chosen].cost = cost(chosen);
    at_[i] = chosen;
  }

  void improve(std::span<const Question> questions) {
    if (questions.size() > kMoveMax) return;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      bool moved = false;
      for (const std::uint32_t i : largest_first_) {
        const std::uint32_t before = at_[i];
        shares_[before].take_out(i);
        shares_[before].cost = cost(before);
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
    Share& at_a = shares_[at_[a]];
    Share& at_b = shares_[at_[b]];
    const Item a_there = item(questions, a, slots_[at_[b]]);
    const Item b_there = item(questions, b, slots_[at_[a]]);
    const double cost_a = cost(at_[a], &b_there, a);
    const double cost_b = cost(at_[b], &a_there, b);
    if (cost_a + cost_b >= at_a.cost + at_b.cost - kEpsilonMs) return false;
    at_a.take_out(a);
    at_b.take_out(b);
    at_a.insert(b_there);
    at_b.insert(a_there);
    at_a.cost = cost_a;
    at_b.cost = cost_b;
    std::swap(at_[a], at_[b]);
    return true;
  }

  std::uint64_t revisions_ = 0;    // FleetView::revisions that the outlooks are of
  double queued_ = 0;              // prompts not begun, on all workers
  std::array<Answer, 4> answers_;  // of the choice being made
  double backlog_ = 0;             // prompts not begun a worker, as those who come find it
  double hit_tokens_ = 0;          // of a prompt, lately
  double computed_tokens_ = 0;
  Mean ttft_ms_{300};
  Mean decode_ms_{3000};
  Mean steps_{200};       // of an answer
  double stream_ms_ = 0;  // those two, as all outlooks have them
  double answer_steps_ = 0;
  std::vector<Outlook> outlooks_;  // by slot
  Glances glances_;                // of those, what a choice reads of all
  // The plan being made.
  Prices prices_;
  std::span<const Slot> slots_;
  std::vector<Share> shares_;      // by candidate
  std::vector<std::uint32_t> at_;  // where each question is planned
  std::vector<double> cold_;
  std::vector<double> least_tokens_;
  std::vector<std::uint32_t> largest_first_;
};

}  // namespace

std::unique_ptr<Policy> make_latency() { return std::make_unique<Latency>(); }

}  // namespace penstock::router
