#include "router/policy.h"

#include <algorithm>

#include "router/latency.h"
#include "router/peers.h"

namespace penstock::router {

void Explanation::add(Slot slot, double cost, std::initializer_list<double> terms,
                      Stage stage) noexcept {
  if (rows_.size() == rows_.capacity()) return;  // more candidates than were reserved for
  Row row{.slot = slot, .cost = cost, .terms = {}, .stage = stage};
  std::copy_n(terms.begin(), std::min(terms.size(), kTermsMax), row.terms.begin());
  rows_.push_back(row);
}

Choice Policy::pick_part(const Question& question, const Split& split, Rng& rng, Explanation* why) {
  Question part = question;
  if (!std::ranges::includes(question.candidates, split.prefill)) {
    part.stage = Stage::kPrefill;
    part.candidates = split.prefill;
    part.active = {};
  }
  Choice choice = pick(part, rng, why);
  choice.stage = part.stage;
  return choice;
}

void Policy::plan(std::span<const Question> questions, Rng& rng, std::span<Choice> choices,
                  std::span<std::uint32_t> order) {
  for (std::uint32_t i = 0; i < questions.size(); ++i) {
    choices[i] = pick(questions[i], rng, nullptr);
    order[i] = i;
  }
}

namespace {

constexpr PolicyEntry kPolicies[] = {
    {"latency",
     "least added waiting for first tokens and stalling of running answers, predicted in ms; what "
     "comes together is placed together",
     make_latency},
    {"round-robin", "each worker in turn", make_round_robin},
    {"random", "any worker with the same chance", make_random},
    {"least-loaded", "fewest requests in flight", make_least_loaded},
    {"power-of-two", "of two random workers the one with fewer requests in flight",
     make_power_of_two},
    {"prefix-sticky",
     "re-implementation of llm-d's sticky-until-saturated: holders of 80 % of the "
     "prefix unless the rest would start 18 s sooner, then fewest uncached tokens",
     make_prefix_sticky},
    {"llm-d-weighted",
     "re-implementation of llm-d's weighted sum: prefix 3, queue depth 2, KV use 2",
     make_llm_d_weighted},
    {"dynamo", "re-implementation of Dynamo's KV router: uncached prefill blocks + active blocks",
     make_dynamo},
    {"smg-cache-aware",
     "re-implementation of SMG's cache_aware: best match over 30 %, else fewest "
     "requests; shortest queue when unbalanced",
     make_smg_cache_aware},
    {"bounded-hash",
     "re-implementation of KubeAI's consistent hashing of the prompt's beginning with "
     "loads to 125 % of the mean",
     make_bounded_hash},
    {"aibrix-prefix",
     "re-implementation of AIBrix's prefix-cache: best match among the not too busy, "
     "least running when unbalanced",
     make_aibrix_prefix},
};

}  // namespace

std::span<const PolicyEntry> policies() noexcept { return kPolicies; }

const PolicyEntry* find_policy(std::string_view name) noexcept {
  const auto* found = std::ranges::find(kPolicies, name, &PolicyEntry::name);
  return found == std::end(kPolicies) ? nullptr : found;
}

}  // namespace penstock::router
