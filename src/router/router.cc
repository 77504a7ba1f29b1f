#include "router/router.h"

#include <utility>

#include "base/check.h"

namespace penstock::router {

Router::Router(std::unique_ptr<Policy> policy, fleet::Ledger& ledger, const PrefixIndex& index,
               std::uint64_t seed)
    : policy_(std::move(policy)),
      needs_(policy_->needs()),
      ledger_(ledger),
      index_(index),
      rng_(seed) {}

Result<Placement> Router::place(const RouteRequest& request, Explanation* why) {
  CHECK_GE(request.prompt_tokens, 1U);
  const fleet::FleetView fleet = ledger_.view();
  const std::span<const Slot> slots = candidates(fleet, request.stage);
  if (slots.empty()) return fail(Code::kUnavailable, "no worker is ready to take a request");

  Question question{.ordinal = ordinals_[static_cast<std::size_t>(request.stage)]++,
                    .stage = request.stage,
                    .now = request.now,
                    .prompt_tokens = request.prompt_tokens,
                    .block_tokens = request.block_tokens,
                    .prompt_blocks = static_cast<std::uint32_t>(request.locals.size()),
                    .prefix_key = request.prefix_key,
                    .fleet = fleet,
                    .candidates = slots,
                    .cached = {},
                    .active = {}};
  const bool decode = request.stage == Stage::kDecode;
  if (needs_.cached && !decode) {
    cached_.resize(fleet.slots());
    index_.match(request.locals, cached_);
    question.cached = cached_;
  }
  if (needs_.active && request.stage == Stage::kWhole) {
    active_.resize(fleet.slots());
    ledger_.match_active(request.locals, active_);
    question.active = active_;
  }
  if (why != nullptr) why->reserve(slots.size());
  const Choice choice = policy_->pick(question, rng_, why);

  Placement placement{.worker = choice.slot,
                      .cached_blocks = question.cached_blocks(choice.slot),
                      .rule = choice.rule,
                      .ties = choice.ties,
                      .lease = {}};
  placement.lease = ledger_.charge(
      choice.slot,
      {.prompt_tokens = request.prompt_tokens,
       .uncached_tokens =
           decode ? 0 : request.prompt_tokens - placement.cached_blocks * request.block_tokens,
       .prompt_blocks = question.prompt_blocks,
       .locals =
           request.stage == Stage::kWhole ? request.locals : std::span<const std::uint64_t>{}});
  return placement;
}

/// Ready workers of the right role; if there is none, the suspect ones: a guess beats refusing all.
std::span<const Slot> Router::candidates(const fleet::FleetView& fleet, Stage stage) {
  Candidates& known = candidates_[static_cast<std::size_t>(stage)];
  if (known.membership == fleet.membership) return known.slots;
  known.membership = fleet.membership;
  known.slots.clear();
  const auto takes = [&](Slot slot) {
    const fleet::Role role = fleet.role[slot];
    if (stage == Stage::kWhole || role == fleet::Role::kBoth) return role == fleet::Role::kBoth;
    return (role == fleet::Role::kPrefill) == (stage == Stage::kPrefill);
  };
  for (const auto wanted : {fleet::WorkerState::kReady, fleet::WorkerState::kSuspect}) {
    for (Slot slot = 0; slot < fleet.slots(); ++slot) {
      if (fleet.state[slot] == wanted && takes(slot)) known.slots.push_back(slot);
    }
    if (!known.slots.empty()) break;
  }
  return known.slots;
}

}  // namespace penstock::router
