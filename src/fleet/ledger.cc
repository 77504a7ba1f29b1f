#include "fleet/ledger.h"

#include <algorithm>

#include "base/check.h"

namespace penstock::fleet {

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  release();
  ledger_ = std::exchange(other.ledger_, nullptr);
  slot_ = other.slot_;
  life_ = other.life_;
  queued_ = other.queued_;
  prompt_tokens_ = other.prompt_tokens_;
  uncached_tokens_ = other.uncached_tokens_;
  prompt_blocks_ = other.prompt_blocks_;
  output_tokens_ = other.output_tokens_;
  chain_ = other.chain_;
  taken_ = other.taken_;
  prefilling_ = other.prefilling_;
  return *this;
}

void Lease::taken(std::span<const std::uint64_t> locals, std::uint32_t held) {
  if (ledger_ == nullptr || !prefilling_ || ledger_->life_[slot_] != life_) return;
  if (taken_ == TakenPrompts::kNone) taken_ = ledger_->taken_.add(slot_, locals, held);
}

void Lease::first_token() noexcept {
  if (ledger_ == nullptr || !std::exchange(prefilling_, false)) return;
  if (ledger_->life_[slot_] != life_) return;
  --ledger_->prefills_[slot_];
  ledger_->prefill_tokens_[slot_] -= uncached_tokens_;
  ledger_->queues_.remove(slot_, queued_);
  if (taken_ != TakenPrompts::kNone) ledger_->taken_.remove(taken_);
  ledger_->update_queued(slot_);
}

void Lease::generated(std::uint32_t tokens) noexcept {
  if (ledger_ == nullptr) return;
  output_tokens_ += tokens;
  if (ledger_->life_[slot_] != life_) return;
  ledger_->output_tokens_[slot_] += tokens;
  ledger_->touch(slot_);
}

void Lease::release() noexcept {
  if (ledger_ == nullptr) return;
  first_token();
  Ledger& ledger = *std::exchange(ledger_, nullptr);
  // The tree is not cleared with a life, since it is the leases that know what is in it.
  if (chain_ != ActiveBlocks::kEmpty) ledger.active_.remove(slot_, chain_);
  if (ledger.life_[slot_] != life_) return;
  --ledger.requests_[slot_];
  ledger.prompt_tokens_[slot_] -= prompt_tokens_;
  ledger.output_tokens_[slot_] -= output_tokens_;
  ledger.prompt_blocks_[slot_] -= prompt_blocks_;
  ledger.touch(slot_);
}

Ledger::Ledger(const Options& options) : options_(options) {}

Ledger::~Ledger() = default;

std::optional<Slot> Ledger::add(WorkerState state, Role role) {
  const auto gone = std::ranges::find(state_, WorkerState::kGone);
  const auto slot = static_cast<Slot>(gone - state_.begin());
  if (gone == state_.end()) {
    if (state_.size() >= options_.slots_max) return std::nullopt;
    const std::size_t slots = state_.size() + 1;
    state_.resize(slots);
    trust_.resize(slots);
    role_.resize(slots);
    cost_.resize(slots);
    revision_.resize(slots);
    life_.resize(slots);
    requests_.resize(slots);
    prefills_.resize(slots);
    prefill_tokens_.resize(slots);
    prompt_tokens_.resize(slots);
    output_tokens_.resize(slots);
    prompt_blocks_.resize(slots);
    queued_tokens_.resize(slots);
    reports_.resize(slots);
    unseen_.resize(slots);
    unseen_counts_.resize(slots);
    queues_.grow(static_cast<std::uint32_t>(slots));
    active_.grow(static_cast<std::uint32_t>(slots));
  }
  state_[slot] = state;
  trust_[slot] = Trust::kLoadOnly;
  role_[slot] = role;
  cost_[slot] = {};
  clear_load(slot);
  return slot;
}

void Ledger::set_state(Slot slot, WorkerState state) {
  if (state_.at(slot) == state) return;
  state_[slot] = state;
  ++membership_;
}

void Ledger::set_role(Slot slot, Role role) {
  if (role_.at(slot) == role) return;
  role_[slot] = role;
  ++membership_;
}

void Ledger::restarted(Slot slot) {
  CHECK_LT(slot, state_.size());
  clear_load(slot);
}

void Ledger::clear_load(Slot slot) {
  ++life_[slot];
  ++membership_;
  requests_[slot] = prefills_[slot] = 0;
  prefill_tokens_[slot] = prompt_tokens_[slot] = output_tokens_[slot] = prompt_blocks_[slot] = 0;
  queued_tokens_[slot] = 0;
  reports_[slot] = {};
  unseen_[slot] = {};
  unseen_counts_[slot] = 0;
  queues_.clear(slot);
  taken_.clear(slot);
  touch(slot);
}

Lease Ledger::charge(Slot slot, const Charge& charge) {
  CHECK_LT(slot, state_.size());
  CHECK_LE(charge.uncached_tokens, charge.prompt_tokens);
  Lease lease;
  lease.ledger_ = this;
  lease.slot_ = slot;
  lease.life_ = life_[slot];
  lease.prompt_tokens_ = charge.prompt_tokens;
  lease.uncached_tokens_ = charge.uncached_tokens;
  lease.prompt_blocks_ = charge.prompt_blocks;
  lease.prefilling_ = true;
  ++requests_[slot];
  ++prefills_[slot];
  prefill_tokens_[slot] += charge.uncached_tokens;
  prompt_tokens_[slot] += charge.prompt_tokens;
  prompt_blocks_[slot] += charge.prompt_blocks;
  if (options_.count_distinct_blocks) lease.chain_ = active_.add(slot, charge.locals);
  lease.queued_ = queues_.push(
      slot, {.uncached_tokens = charge.uncached_tokens, .new_blocks = charge.new_blocks});
  unseen_[slot].push(charge.uncached_tokens);
  update_queued(slot);
  return lease;
}

bool Ledger::report(Slot slot, const WorkerReport& report) {
  if (report.generation <= reports_.at(slot).generation) {
    ++reports_stale_;
    return false;
  }
  reports_[slot] = report;
  unseen_[slot].pop_until(report.accepted);
  update_queued(slot);
  return true;
}

FleetView Ledger::view() const noexcept {
  return {.membership = membership_,
          .state = state_,
          .trust = trust_,
          .role = role_,
          .cost = cost_,
          .revision = revision_,
          .revisions = revisions_,
          .changes = changes_,
          .requests = requests_,
          .prefills = prefills_,
          .prefill_tokens = prefill_tokens_,
          .prompt_tokens = prompt_tokens_,
          .output_tokens = output_tokens_,
          .prompt_blocks = prompt_blocks_,
          .active_blocks = active_.distinct(),
          .reports = reports_,
          .queued_tokens = queued_tokens_,
          .unseen = unseen_counts_,
          .queues = &queues_};
}

std::uint64_t Ledger::in_flight() const noexcept {
  std::uint64_t sum = 0;
  for (const std::uint32_t requests : requests_) sum += requests;
  return sum;
}

/// With no report the ledger's own sum is all there is to go by.
void Ledger::update_queued(Slot slot) noexcept {
  touch(slot);
  unseen_counts_[slot] = static_cast<std::uint32_t>(unseen_[slot].end - unseen_[slot].begin);
  queued_tokens_[slot] = reports_[slot].generation == 0
                             ? prefill_tokens_[slot]
                             : reports_[slot].prefill_tokens_left + unseen_[slot].sum;
}

void Ledger::Unseen::push(std::uint32_t uncached_tokens) noexcept {
  if (end - begin == kMax) pop_until(begin + 1);
  tokens[end++ % kMax] = uncached_tokens;
  sum += uncached_tokens;
}

void Ledger::Unseen::pop_until(std::uint64_t accepted) noexcept {
  for (; begin < std::min(accepted, end); ++begin) sum -= tokens[begin % kMax];
}

void Ledger::check_invariants(std::span<const Lease* const> leases) const {
  struct Sums {
    std::uint64_t requests = 0, prefills = 0, prefill = 0, prompt = 0, output = 0, blocks = 0;
  };
  std::vector<Sums> sums(state_.size());
  std::size_t taken = 0;
  for (const Lease* lease : leases) {
    if (!*lease || life_[lease->slot_] != lease->life_) continue;
    Sums& s = sums[lease->slot_];
    ++s.requests;
    s.prefills += lease->prefilling_ ? 1 : 0;
    s.prefill += lease->prefilling_ ? lease->uncached_tokens_ : 0;
    s.prompt += lease->prompt_tokens_;
    s.output += lease->output_tokens_;
    s.blocks += lease->prompt_blocks_;
    taken += lease->prefilling_ && lease->taken_ != TakenPrompts::kNone ? 1 : 0;
  }
  for (std::size_t i = 0; i < sums.size(); ++i) {
    CHECK_EQ(sums[i].requests, requests_[i]);
    CHECK_EQ(sums[i].prefills, prefills_[i]);
    CHECK_EQ(sums[i].prefills, queues_.size(static_cast<Slot>(i)));
    CHECK_EQ(sums[i].prefill, prefill_tokens_[i]);
    CHECK_EQ(sums[i].prompt, prompt_tokens_[i]);
    CHECK_EQ(sums[i].output, output_tokens_[i]);
    CHECK_EQ(sums[i].blocks, prompt_blocks_[i]);
  }
  CHECK_EQ(taken, taken_.size());
}

}  // namespace penstock::fleet
