#include "fleet/kv_follower.h"

#include <algorithm>

#include "base/log.h"

namespace penstock::fleet {

std::string_view to_string(Doubt doubt) noexcept {
  switch (doubt) {
    case Doubt::kLost: return "lost";
    case Doubt::kOrphans: return "orphans";
    case Doubt::kShed: return "shed";
    case Doubt::kDisagreement: return "disagreement";
  }
  return {};
}

KvFollower::KvFollower(kv::PrefixIndex& index, kv::Slot slot, const Options& options)
    : index_(index), slot_(slot), options_(options) {}

Trust KvFollower::trust() const noexcept {
  if (!tells_) return Trust::kLoadOnly;
  if (doubts_ != 0) return Trust::kDegraded;
  return missing() ? Trust::kCatchingUp : Trust::kExact;
}

void KvFollower::announced(kv::EventPosition last, TimePoint now) {
  if (!same_life(last.epoch)) return;
  if (!missing()) open_gap(now);
  known_ = std::max(known_, last.sequence);
}

void KvFollower::take(const KvBatch& batch, TimePoint now) {
  if (batch.epoch == 0 && tells_ && epoch_ == 0 && batch.last <= live_last_) begin_life(0);
  if (!same_life(batch.epoch)) return;
  live_last_ = std::max(live_last_, batch.last);
  const bool was_missing = missing();
  take_in_order(batch);
  if (!missing() || was_missing) return;
  ++counters_.gaps;
  open_gap(now);
}

void KvFollower::replayed(std::span<const KvBatch> batches, TimePoint now) {
  const std::uint64_t before = applied_;
  for (const KvBatch& batch : batches) {
    if (same_life(batch.epoch)) take_in_order(batch);
  }
  if (applied_ > before) gap_ = {.tries = 0, .at = now};
}

void KvFollower::replay_unavailable(TimePoint now) {
  ++counters_.unreplayable;
  replays_help_ = false;
  gap_ = {.tries = 0, .at = now};
}

void KvFollower::snapshot(const KvBatch& held, TimePoint now) {
  if (!same_life(held.epoch)) return;
  if (held.last < applied_) {  // it would take back what is known
    ++counters_.stale;
    return;
  }
  ++counters_.snapshots;
  index_.cleared(slot_);
  applied_ = held.last;
  known_ = std::max(known_, applied_);
  apply(held, true);
  apply_pending();
  open_gap(now);
}

void KvFollower::snapshot_unavailable(TimePoint now) {
  if (missing()) give_up();
  resync_.at = now + options_.retry_max;
}

KvFollower::Want KvFollower::next(TimePoint now) {
  notice_shed();
  if (missing() && now >= gap_.at) {
    if (replays_help_ && gap_.tries >= options_.tries_max) {
      replays_help_ = false;
      gap_.tries = 0;
    }
    if (replays_help_) {
      ask(gap_, now);
      ++counters_.replays_asked;
      return {.kind = Want::Kind::kReplay, .from = applied_ + 1};
    }
    if (gap_.tries < options_.tries_max) {
      ask(gap_, now);
      ++counters_.snapshots_asked;
      return {.kind = Want::Kind::kSnapshot};
    }
    give_up();
  }
  if (doubts_ == 0 || now < resync_.at) return {};
  ask(resync_, now);
  ++counters_.snapshots_asked;
  return {.kind = Want::Kind::kSnapshot};
}

void KvFollower::compare(std::uint64_t predicted_tokens, std::uint64_t reported_tokens) {
  // A picture that is known to be wrong proves nothing about the rest.
  const bool otherwise_exact = tells_ && !missing() && (doubts_ & ~bit(Doubt::kDisagreement)) == 0;
  const auto [less, more] = std::minmax(predicted_tokens, reported_tokens);
  if (!otherwise_exact || more == 0) return;
  const double agree = static_cast<double>(less) / static_cast<double>(more);
  agreement_ += (agree - agreement_) * options_.agreement_weight;
  ++compared_;
  if (compared_ >= options_.agreement_requests && agreement_ < options_.agreement_low) {
    doubt(Doubt::kDisagreement);
  }
  if (agreement_ > options_.agreement_high) trust_again(bit(Doubt::kDisagreement));
}

/// Whether what came is of the life that is followed; a later life is then followed from here on.
bool KvFollower::same_life(std::uint64_t epoch) {
  if (epoch < epoch_) {
    ++counters_.stale;
    return false;
  }
  if (epoch > epoch_ || !tells_) begin_life(epoch);
  return true;
}

void KvFollower::begin_life(std::uint64_t epoch) {
  if (tells_) {
    ++counters_.restarts;
    index_.cleared(slot_, {.epoch = epoch, .sequence = 0});
    trust_again(doubts_);
  }
  tells_ = true;
  epoch_ = epoch;
  applied_ = known_ = live_last_ = 0;
  pending_.clear();
  pending_blocks_ = 0;
  replays_help_ = true;
  gap_ = resync_ = {};
  agreement_ = 1;
  compared_ = 0;
}

/// If anything is missing from now on, a replay may help at once.
void KvFollower::open_gap(TimePoint now) {
  replays_help_ = true;
  gap_ = {.tries = 0, .at = now};
}

void KvFollower::take_in_order(const KvBatch& batch) {
  known_ = std::max(known_, batch.last);
  if (batch.last <= applied_ || batch.last < batch.first) {
    ++counters_.duplicates;
    return;
  }
  if (batch.first > applied_ + 1 && !batch.clears()) return keep(batch);
  if (batch.first <= applied_) {  // the rest of it is missing and comes with a replay
    ++counters_.duplicates;
    return;
  }
  applied_ = batch.last;
  apply(batch, batch.clears());
  apply_pending();
}

void KvFollower::keep(const KvBatch& batch) {
  if (pending_.contains(batch.first)) {
    ++counters_.duplicates;
    return;
  }
  if (pending_.size() >= options_.pending_batches_max ||
      pending_blocks_ + batch.blocks() > options_.pending_blocks_max) {
    ++counters_.overflows;
    return;
  }
  pending_.emplace(batch.first, batch);
  pending_blocks_ += batch.blocks();
}

/// What has come early and is now due; what has become old goes.
void KvFollower::apply_pending() {
  while (!pending_.empty() && pending_.begin()->first <= applied_ + 1) {
    const KvBatch batch = std::move(pending_.extract(pending_.begin()).mapped());
    pending_blocks_ -= batch.blocks();
    if (batch.first <= applied_) continue;
    applied_ = batch.last;
    apply(batch, batch.clears());
  }
}

/// `whole`: what was known before does not matter any more.
void KvFollower::apply(const KvBatch& batch, bool whole) {
  ++counters_.batches;
  const std::uint32_t orphans = batch.apply(index_, slot_);
  index_.stored(slot_, kv::Tier::kDevice, {}, {}, applied());  // for the index's own snapshots
  counters_.orphans += orphans;
  if (whole) {
    unsigned ended = bit(Doubt::kLost);
    if (orphans == 0) ended |= bit(Doubt::kOrphans);
    if (index_.shed_blocks(slot_) == 0) ended |= bit(Doubt::kShed);
    trust_again(ended);
  }
  notice_shed();
  // Holes that are known of have orphans.
  if (orphans > 0 && !doubts(Doubt::kLost) && !doubts(Doubt::kShed)) doubt(Doubt::kOrphans);
}

/// What is missing will not come: goes on from what has come since, with nothing from before.
void KvFollower::give_up() {
  doubt(Doubt::kLost);
  while (!pending_.empty()) {
    index_.cleared(slot_);
    applied_ = pending_.begin()->first - 1;
    apply_pending();
  }
  if (missing()) {
    index_.cleared(slot_);
    applied_ = known_;
  }
  trust_again(bit(Doubt::kOrphans) | bit(Doubt::kShed));  // the picture began anew
  notice_shed();
}

void KvFollower::notice_shed() {
  if (index_.shed_blocks(slot_) > 0) doubt(Doubt::kShed);
}

void KvFollower::doubt(Doubt why) {
  if (doubts(why)) return;
  doubts_ |= bit(why);
  ++counters_.doubts[static_cast<std::size_t>(why)];
  log::warn("worker slot {}: the picture of its cache is degraded ({}) at event {} of life {}",
            slot_, to_string(why), applied_, epoch_);
}

void KvFollower::trust_again(unsigned doubts) {
  if ((doubts_ & doubts) == 0) return;
  doubts_ &= ~doubts;
  if (doubts_ == 0) log::info("worker slot {}: the picture of its cache is whole again", slot_);
}

void KvFollower::ask(Retry& retry, TimePoint now) const {
  if (retry.at + options_.retry_max < now) retry.tries = 0;  // the last time was another story
  const Nanos wait = options_.retry_first * (std::int64_t{1} << std::min(retry.tries, 20U));
  retry.at = now + std::min(wait, options_.retry_max);
  ++retry.tries;
}

}  // namespace penstock::fleet
