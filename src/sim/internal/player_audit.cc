// Checkers of runs in which things go wrong. What they find ends the run as an error that says
// what was not true, of which request or worker, and when.

#include <fmt/format.h>

#include <vector>

#include "sim/internal/player.h"

namespace penstock::sim {
namespace {

constexpr std::size_t kPromptsCompared = 64;

}  // namespace

void Player::require(bool holds, std::string_view what, std::uint64_t of) {
  if (holds || !violation_.empty()) return;
  violation_ = fmt::format("{} (number {}, at {} ms)", what, of, to_ms(now_));
}

/// Now and then, while it goes on.
void Player::audit_moment() {
  std::vector<std::vector<const fleet::Lease*>> leases(fronts_.size());
  for (const auto& live : lives_) {
    if (live->lease) leases[live->front].push_back(&live->lease);
    if (live->ended || live->legs == 0 || setup_.faults.deadline == Nanos::zero()) continue;
    require(now_ <= outcomes_[live->request].arrival + setup_.faults.deadline,
            "a request is past its deadline and has not ended", live->request);
  }
  for (std::size_t i = 0; i < fronts_.size(); ++i) {
    fronts_[i]->ledger.check_invariants(leases[i]);
    const kv::PrefixIndex::Stats stats = fronts_[i]->index.stats();
    require(stats.memory_bytes <= stats.budget_bytes, "an index is over its budget", i);
  }
}

void Player::audit_end() {
  audit_moment();
  for (std::size_t i = 0; i < outcomes_.size(); ++i) {
    const Outcome& outcome = outcomes_[i];
    const int ends = int{outcome.completed} + int{outcome.failed} + int{outcome.shed};
    require(ends == 1 || !can_run(trace_.requests[i]), "a request did not end just once", i);
    require(setup_.faults.deadline == Nanos::zero() || ends == 0 ||
                outcome.ended <= outcome.arrival + setup_.faults.deadline,
            "a request ended after its deadline", i);
    require(!outcome.completed || outcome.tokens == trace_.requests[i].output_tokens,
            "a request was completed with tokens missing or twice", i);
  }
  for (std::size_t i = 0; i < lives_.size(); ++i) {
    require(lives_[i]->legs == 0 && !lives_[i]->lease, "a request left something behind", i);
  }
  for (std::size_t i = 0; i < workers_.size(); ++i) {
    const engine::simulated::SchedulerModel& model = *workers_[i]->model;
    model.check_invariants();
    require(model.idle() && model.pool().active() == 0, "a worker still holds blocks in use", i);
  }
  for (std::uint32_t i = 0; i < fronts_.size(); ++i) {
    require(fronts_[i]->ledger.in_flight() == 0, "a router's ledger was not emptied", i);
    for (const std::uint64_t blocks : fronts_[i]->ledger.view().active_blocks) {
      require(blocks == 0, "a router still counts active blocks", i);
    }
    fronts_[i]->index.check();
    for (std::uint32_t index = 0; index < workers_.size() && needs_.cached; ++index) {
      audit_picture(i, index);
    }
  }
}

/// Once nothing goes wrong any more, a router's picture of a cache is the truth, or known to be
/// less.
void Player::audit_picture(std::uint32_t front, std::uint32_t index) {
  using Kind = fleet::KvFollower::Want::Kind;
  constexpr int kRoundsMax = 40;
  const Worker& worker = *workers_[index];
  const KvMemory& memory = *worker.feed->memory;
  fleet::KvFollower& of = *follower(front, index);
  TimePoint now = time_point(now_);
  of.announced({worker.life, worker.events}, now);
  // Disagreement ends by requests only, and what was shed may be shed again.
  const auto recovered = [&] {
    return of.applied() == kv::EventPosition{worker.life, worker.events} &&
           !of.doubts(fleet::Doubt::kLost) && !of.doubts(fleet::Doubt::kOrphans);
  };
  for (int round = 0; round < kRoundsMax && !recovered(); ++round) {
    now += std::chrono::minutes(10);
    const fleet::KvFollower::Want want = of.next(now);
    if (want.kind == Kind::kReplay) {
      const auto replay = memory.replay(want.from);
      replay ? of.replayed(*replay, now) : of.replay_unavailable(now);
    } else if (want.kind == Kind::kSnapshot) {
      fleet::KvBatch all = memory.snapshot();
      all.epoch = worker.life;
      all.first = all.last = worker.events;
      of.snapshot(all, now);
    }
  }
  const bool shed = of.doubts(fleet::Doubt::kShed);
  require(recovered() && (of.trust() == fleet::Trust::kExact || shed ||
                          of.doubts(fleet::Doubt::kDisagreement)),
          "the picture of a worker's cache did not recover", index);
  require(memory.blocks() == worker.model->pool().names(),
          "a worker's cache and what it tells of it differ", index);
  std::vector<kv::BlockHash> keys;
  std::vector<std::uint64_t> locals;
  std::vector<std::uint32_t> depths(workers_.size());
  for (std::size_t i = 0; i < std::min(trace_.requests.size(), kPromptsCompared); ++i) {
    keys_of(trace_, trace_.requests[i], setup_.model.block_tokens, keys);
    locals.clear();
    for (const kv::BlockHash& key : keys) locals.push_back(content_hash(key));
    std::ranges::fill(depths, 0);
    fronts_[front]->index.match(locals, depths);
    const std::uint32_t depth = depths[fronts_[front]->slots[index]];
    const std::uint32_t truth = memory.depth(locals);
    require(depth == truth || (shed && depth < truth), "a router's index is wrong about a worker",
            index);
  }
}

}  // namespace penstock::sim
