#include "router/router.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace penstock::router {
namespace {

bool takes(fleet::Role role, Stage stage) {
  if (role == fleet::Role::kWhole) return stage == Stage::kWhole;
  // A worker that decodes can compute the prompt as well.
  return role == fleet::Role::kBoth ||
         (role == fleet::Role::kPrefill) == (stage == Stage::kPrefill);
}

}  // namespace

std::unexpected<Error> nobody_ready() {
  return std::unexpected(Error{.code = Code::kUnavailable,
                               .message = "no worker is ready to take a request",
                               .param = {},
                               .retry_after_s = 1});
}

Router::Router(std::unique_ptr<Policy> policy, fleet::Ledger& ledger, kv::PrefixIndex& index,
               std::uint64_t seed)
    : policy_(std::move(policy)),
      needs_(policy_->needs()),
      ledger_(ledger),
      index_(index),
      rng_(seed) {}

Result<Placement> Router::place(const RouteRequest& request, Explanation* why) {
  CHECK_GE(request.prompt_tokens, 1U);
  const fleet::FleetView fleet = ledger_.view();
  std::span<const Slot> slots = candidates(fleet, request.stage);
  if (!request.among.empty()) slots = allowed(request, fleet, slots);
  slots = in_reach(request, slots);
  if (slots.empty()) return nobody_ready();
  Question asked = question(request, fleet, slots);
  if (request.stage == Stage::kDecode) {
    asked.transfer = request.split;
    asked.prompt_at = request.prompt_at;
    asked.tail_tokens = request.tail_tokens;
  }
  if (needs_.cached && (request.stage != Stage::kDecode || request.split)) {
    cached_.resize(fleet.slots());
    match(request, cached_);
    // It will be there by the time this one is looked at.
    if (request.twin_at) cached_[*request.twin_at] = asked.prompt_blocks;
    asked.cached = cached_;
    if (request.tiers != nullptr && request.stage != Stage::kDecode) {
      loads_.resize(fleet.slots());
      look_up(request, cached_, loads_);
      asked.loads = loads_;
    }
  }
  if (needs_.active && request.stage == Stage::kWhole) {
    active_.resize(fleet.slots());
    ledger_.match_active(request.locals, active_);
    asked.active = active_;
  }
  if (why != nullptr) why->reserve(slots.size());
  return charge(request, asked, pick(request, asked, why));
}

/// Those of the candidates that the request asked for; if there is none, the suspect ones of whom
/// it asked for.
std::span<const Slot> Router::allowed(const RouteRequest& request, const fleet::FleetView& fleet,
                                      std::span<const Slot> slots) {
  allowed_.clear();
  std::ranges::set_intersection(slots, request.among, std::back_inserter(allowed_));
  if (allowed_.empty()) {
    std::ranges::copy_if(request.among, std::back_inserter(allowed_), [&](Slot slot) {
      return fleet.state[slot] == fleet::WorkerState::kSuspect &&
             takes(fleet.role[slot], request.stage);
    });
  }
  return allowed_;
}

/// Who may answer what was computed elsewhere: where its KV does not come, only if it comes to
/// none.
std::span<const Slot> Router::in_reach(const RouteRequest& request, std::span<const Slot> slots) {
  if (!request.prompt_at || !hand_overs_.any()) return slots;
  in_reach_.clear();
  std::ranges::copy_if(slots, std::back_inserter(in_reach_), [&](Slot slot) {
    return slot == *request.prompt_at || !hand_overs_.apart(*request.prompt_at, slot, request.now);
  });
  return in_reach_.empty() ? slots : in_reach_;
}

/// Between which workers it may be split; absent: it may not. Suspect ones are for what has to run
/// somewhere.
std::optional<Split> Router::split(const RouteRequest& request, const Question& asked) {
  const bool may = request.split && request.stage == Stage::kWhole && request.among.empty();
  if (!may) return std::nullopt;
  Split split{.prefill = candidates(asked.fleet, Stage::kPrefill),
              .decode = candidates(asked.fleet, Stage::kDecode),
              .transfer = *request.split,
              .tail_tokens = request.tail_tokens};
  const auto ready = [this](Stage stage) {
    return candidates_[static_cast<std::size_t>(stage)].ready;
  };
  if (!ready(Stage::kPrefill) || !ready(Stage::kDecode)) return std::nullopt;
  if (hand_overs_.any()) {
    split.hand_overs = &hand_overs_;
    in_reach_.clear();
    std::ranges::copy_if(split.prefill, std::back_inserter(in_reach_), [&](Slot from) {
      return std::ranges::any_of(split.decode, [&](Slot to) {
        return to != from && !hand_overs_.apart(from, to, request.now);
      });
    });
    split.prefill = in_reach_;
  }
  const bool two = split.prefill.size() > 1 || split.decode.size() > 1 ||
                   !std::ranges::equal(split.prefill, split.decode);
  if (!two || split.prefill.empty()) return std::nullopt;
  return split;
}

Choice Router::pick(const RouteRequest& request, const Question& asked, Explanation* why) {
  if (const std::optional<Split> split = this->split(request, asked)) {
    if (why != nullptr) why->reserve(asked.candidates.size() + split->prefill.size());
    return policy_->pick_part(asked, *split, rng_, why);
  }
  Choice choice = policy_->pick(asked, rng_, why);
  choice.stage = request.stage;
  return choice;
}

Result<void> Router::place_together(std::span<const RouteRequest> requests,
                                    std::span<Placement> placements,
                                    std::span<std::uint32_t> order) {
  CHECK_EQ(requests.size(), placements.size());
  CHECK_EQ(requests.size(), order.size());
  if (requests.empty()) return {};
  if (requests.size() == 1 || !policy_->plans()) {
    for (std::uint32_t i = 0; i < requests.size(); ++i) {
      Result<Placement> placement = place(requests[i]);
      if (!placement) {
        for (Placement& placed : placements.first(i)) placed.lease.release();
        return std::unexpected(std::move(placement).error());
      }
      placements[i] = std::move(*placement);
      order[i] = i;
    }
    return {};
  }
  const fleet::FleetView fleet = ledger_.view();
  const std::span<const Slot> slots = candidates(fleet, requests.front().stage);
  if (slots.empty()) return nobody_ready();
  cached_.resize(requests.size() * fleet.slots());
  loads_.resize(cached_.size());
  questions_.clear();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto cached = std::span(cached_).subspan(i * fleet.slots(), fleet.slots());
    questions_.push_back(question(requests[i], fleet, slots));
    match(requests[i], cached);
    questions_.back().cached = cached;
    if (requests[i].tiers == nullptr) continue;
    const auto loads = std::span(loads_).subspan(i * fleet.slots(), fleet.slots());
    look_up(requests[i], cached, loads);
    questions_.back().loads = loads;
  }
  choices_.resize(requests.size());
  policy_->plan(questions_, rng_, choices_, order);
  for (std::size_t i = 0; i < requests.size(); ++i) choices_[i].stage = requests[i].stage;
  for (const std::uint32_t i : order) {
    placements[i] = charge(requests[i], questions_[i], choices_[i]);
  }
  return {};
}

/// Slots that the index has never heard of hold nothing.
void Router::match(const RouteRequest& request, std::span<std::uint32_t> depths) {
  const std::size_t written = index_.match(request.locals, depths);
  std::ranges::fill(depths.subspan(written), 0);
  // Where an answer is placed now only what is there by now helps: KV is moved at once. (While a
  // split is weighed, a little too much is taken for there.)
  if (needs_.taken && request.stage != Stage::kDecode) ledger_.raise_taken(request.locals, depths);
}

void Router::look_up(const RouteRequest& request, std::span<const std::uint32_t> cached,
                     std::span<tiers::LoadChoice> loads) {
  std::ranges::fill(loads, tiers::LoadChoice{});
  const auto ask = [&](Slot slot) {
    if (cached[slot] >= request.locals.size()) return;
    loads[slot] = request.tiers->foresee_load(slot, cached[slot]);
  };
  if (!request.among.empty()) {
    std::ranges::for_each(request.among, ask);
  } else {
    for (Slot slot = 0; slot < loads.size(); ++slot) ask(slot);
  }
}

Question Router::question(const RouteRequest& request, const fleet::FleetView& fleet,
                          std::span<const Slot> slots) {
  return {.ordinal = ordinals_[static_cast<std::size_t>(request.stage)]++,
          .stage = request.stage,
          .now = request.now,
          .prompt_tokens = request.prompt_tokens,
          .block_tokens = request.block_tokens,
          .prompt_blocks = static_cast<std::uint32_t>(request.locals.size()),
          .output_tokens_max = request.output_tokens_max,
          .prefix_key = request.prefix_key,
          .fleet = fleet,
          .candidates = slots,
          .cached = {},
          .active = {},
          .loads = {},
          .ttft_max_ms = request.ttft_max_ms};
}

std::optional<KvSource> Router::fetch(const Question& q, Slot slot) {
  if (q.stage != Stage::kDecode) {
    const tiers::LoadChoice load = q.load(slot);
    if (load.blocks == 0) return std::nullopt;
    return KvSource{.worker = std::nullopt,
                    .tier = load.slowest,
                    .blocks = load.blocks,
                    .load_ms = load.load_ns / 1e6,
                    .recompute_ms = load.recompute_ns / 1e6};
  }
  // Of policies that ask for no caches not all blocks are named.
  const std::uint32_t whole = q.prompt_tokens / q.block_tokens;
  if (!q.prompt_at || q.prompt_at == slot || q.cached_blocks(slot) >= whole) return std::nullopt;
  const std::uint32_t blocks = whole - q.cached_blocks(slot);
  const TransferCost cost = q.transfer.value_or(TransferCost{});
  return KvSource{
      .worker = q.prompt_at, .blocks = blocks, .load_ms = cost.fixed_ms + cost.block_ms * blocks};
}

Placement Router::charge(const RouteRequest& request, const Question& question,
                         const Choice& choice) {
  const bool decode = choice.stage == Stage::kDecode;
  const std::uint32_t cached_blocks = question.cached_blocks(choice.slot);
  const tiers::LoadChoice load = question.load(choice.slot);
  Placement placement{
      .worker = choice.slot,
      .cached_blocks = decode ? 0 : cached_blocks,
      .told_blocks = decode ? 0 : ledger_.told_blocks(choice.slot, request.locals, cached_blocks),
      .fetch = fetch(question, choice.slot),
      .rule = choice.rule,
      .ties = choice.ties,
      .ttft_ms = choice.ttft_ms,
      .stage = choice.stage,
      .lease = {}};
  const std::uint32_t cached_tokens = (cached_blocks + load.blocks) * request.block_tokens;
  placement.lease = ledger_.charge(
      choice.slot, {.prompt_tokens = request.prompt_tokens,
                    .uncached_tokens = decode ? 0 : request.prompt_tokens - cached_tokens,
                    .prompt_blocks = question.prompt_blocks,
                    .new_blocks = question.prompt_blocks + 1 - cached_blocks,
                    .locals = choice.stage == Stage::kWhole ? request.locals
                                                            : std::span<const std::uint64_t>{}});
  return placement;
}

void Router::report(Slot slot, const fleet::WorkerReport& report) {
  if (!ledger_.report(slot, report)) return;
  if (!any_model_.observed() && report.prompt_token_cost > Nanos::zero()) {
    believe(slot, report.prompt_token_cost);
  }
  observe(slot, report.last_pass, report.last_pass_took);
}

/// Until any worker has shown what its passes take, what each says of itself beats a guess.
void Router::believe(Slot slot, Nanos prompt_token_cost) {
  const fleet::PassCost prior{.prefill_token_ms = to_ms(prompt_token_cost)};
  if (slot >= models_.size()) models_.resize(slot + 1);
  models_[slot] = TimeModel(prior, true);
  set_cost(slot, prior);
}

void Router::observe(Slot slot, const fleet::PassWork& pass, Nanos took) {
  if (slot >= models_.size()) models_.resize(slot + 1);
  TimeModel& model = models_[slot];
  if (!any_model_.observed()) {
    any_model_ = model;
  } else if (!model.observed()) {
    model = TimeModel(any_model_.cost(), any_model_.is_rough());
  }
  model.observe(pass, took);
  set_cost(slot, model.cost());
  any_model_.observe(pass, took);
  if (std::has_single_bit(++passes_)) share_model();
}

/// Workers that have shown nothing yet are taken for what the others are: were they taken for
/// slower, they would never be asked to show it.
void Router::share_model() {
  if (!any_model_.observed()) return;
  const fleet::FleetView fleet = ledger_.view();
  for (Slot slot = 0; slot < fleet.slots(); ++slot) {
    if (slot >= models_.size() || !models_[slot].observed()) set_cost(slot, any_model_.cost());
  }
}

void Router::set_cost(Slot slot, fleet::PassCost cost) {
  cost.pass_tokens_max = ledger_.view().cost[slot].pass_tokens_max;
  ledger_.set_cost(slot, cost);
}

void Router::forget(Slot slot) {
  if (slot < models_.size()) models_[slot] = TimeModel();
  hand_overs_.forget(slot);
}

/// Ready workers of the right role; if there is none, the suspect ones: a guess beats refusing all.
std::span<const Slot> Router::candidates(const fleet::FleetView& fleet, Stage stage) {
  Candidates& known = candidates_[static_cast<std::size_t>(stage)];
  if (known.membership == fleet.membership) return known.slots;
  known.membership = fleet.membership;
  share_model();
  known.slots.clear();
  for (const auto wanted : {fleet::WorkerState::kReady, fleet::WorkerState::kSuspect}) {
    for (Slot slot = 0; slot < fleet.slots(); ++slot) {
      if (fleet.state[slot] == wanted && takes(fleet.role[slot], stage)) {
        known.slots.push_back(slot);
      }
    }
    known.ready = wanted == fleet::WorkerState::kReady && !known.slots.empty();
    if (!known.slots.empty()) break;
  }
  return known.slots;
}

}  // namespace penstock::router
