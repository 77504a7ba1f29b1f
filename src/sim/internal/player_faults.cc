// What goes wrong: workers that go away and come back with nothing, messages about their caches
// that are lost, doubled or late, deadlines. And what a router does about it, by the code that
// serves: fleet/registry.h with its health and its followers of caches.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "sim/internal/player.h"

namespace penstock::sim {
namespace {

/// Routers look at their workers, and workers say how far their events go.
constexpr Nanos kTickEvery = std::chrono::seconds(1);
/// Discovery notices that a worker is away.
constexpr Nanos kGoneAfter = std::chrono::milliseconds(1500);
/// Before a request that was lost is tried again.
constexpr Nanos kRetryAfter = std::chrono::milliseconds(10);
/// A router's question to a worker and the answer take at least as long.
constexpr Nanos kAnswerAfter = std::chrono::milliseconds(1);

std::string instance_of(std::uint32_t worker, std::uint32_t life) {
  return fmt::format("{}.{}", worker, life);
}

}  // namespace

void Player::begin_faults() {
  for (const auto& front : fronts_) {
    front->registry = std::make_unique<fleet::Registry>(front->ledger, front->index);
  }
  for (std::uint32_t index = 0; index < workers_.size(); ++index) {
    if (happens(setup_.faults.slow_workers)) workers_[index]->slowdown = setup_.faults.slowdown;
    for (const auto& front : fronts_) join(*front, index);
    schedule_restart(index);
  }
  events_.push(kTickEvery, EventKind::kTick, 0);
}

/// The worker's present life becomes known to a router, and is well.
void Player::join(Front& front, std::uint32_t index) {
  const Worker& worker = *workers_[index];
  const Result<kv::Slot> slot = front.registry->join({.instance = instance_of(index, worker.life),
                                                      .address = fmt::format("{}", index),
                                                      .role = worker.role},
                                                     time_point(now_));
  CHECK(slot.has_value());
  front.slots[index] = *slot;
  front.workers[*slot] = index;
  front.lives[index] = worker.life;
  front.ledger.set_cost(*slot, {.pass_tokens_max = setup_.model.pass_tokens_max});
  front.registry->health(*slot)->probed(true, time_point(now_));
  look(front);
}

/// A router's states are brought up to date, and the checks that are due come back at once.
void Player::look(Front& front) {
  do {
    due_.clear();
    front.registry->tick(time_point(now_), due_);
    for (const auto& [slot, check] : due_) {
      const bool well = !workers_[front.workers[slot]]->down;
      fleet::WorkerHealth& of = *front.registry->health(slot);
      if (check == fleet::WorkerHealth::Check::kCanary) {
        of.canary_ended(well, time_point(now_));
      } else {
        of.probed(well, time_point(now_));
      }
    }
  } while (!due_.empty());
}

void Player::schedule_restart(std::uint32_t index) {
  if (setup_.faults.restart_every == Nanos::zero()) return;
  const Nanos after(static_cast<std::int64_t>(rng_.exponential(ns(setup_.faults.restart_every))));
  events_.push(now_ + after, EventKind::kRestart, index);
}

/// A worker is away with all it had.
void Player::restart(std::uint32_t index) {
  if (ended_ == outcomes_.size()) return;
  Worker& worker = *workers_[index];
  worker.down = true;
  worker.busy = false;
  ++worker.pass_serial;
  wake(worker);
  for (const std::uint32_t live : std::exchange(worker.departing, {})) leave(*lives_[live]);
  for (const auto& live : lives_) {
    const bool here = (live->on_worker && live->worker == index) ||
                      (live->on_prefill && live->prefill_worker == index);
    if (!here) continue;
    if (live->ended) {
      take_off(*live);  // what it held for the decode worker
    } else {
      lose(*live, index);
    }
  }
  worker.passes_before += worker.model->passes();
  worker.preemptions_before += worker.model->preemptions();
  worker.model = std::make_unique<engine::simulated::SchedulerModel>(
      ModelOptions(worker.model->options()), worker.feed.get());
  if (worker.feed != nullptr) {
    worker.feed->batch.clear();
    worker.feed->memory->clear();
  }
  ++worker.life;
  worker.events = worker.reports = 0;
  worker.last_pass = {};
  worker.last_pass_took = Nanos::zero();
  std::ranges::fill(worker.accepted, 0);
  events_.push(now_ + kGoneAfter, EventKind::kGone, index, worker.life);
  events_.push(now_ + setup_.faults.restart_takes, EventKind::kWorkerUp, index);
}

/// Its slots are others' from now on. `life`: the one it will come back with.
void Player::notice_gone(std::uint32_t index, std::uint32_t life) {
  if (!workers_[index]->down || workers_[index]->life != life) return;
  for (const auto& front : fronts_) {
    front->registry->leave(instance_of(index, front->lives[index]));
    front->slots[index] = Front::kNone;
    front->lives[index] = 0;
  }
}

void Player::come_up(std::uint32_t index) {
  workers_[index]->down = false;
  for (const auto& front : fronts_) join(*front, index);
  schedule_restart(index);
}

/// A try came to nothing, through `blamed` (kNone: nobody took it).
void Player::lose(Live& live, std::uint32_t blamed) {
  take_off(live);
  if (blamed != kNone) {
    if (auto* of = health(live.front, blamed)) {
      of->request_ended(FaultClass::kNetwork, time_point(now_));
      look(*fronts_[live.front]);
    }
  }
  const Outcome& outcome = outcomes_[live.request];
  if (outcome.tokens > 0 || outcome.tries > setup_.faults.retries_max) return end_badly(live);
  ++retries_;
  push_for(live, now_ + kRetryAfter, EventKind::kForwarded);
}

/// Nothing of it is left on any worker, and what was under way for it no longer counts.
void Player::take_off(Live& live) {
  live.lease.release();
  ++outcomes_[live.request].tries;
  const auto off = [&](bool& on, std::uint32_t index, engine::simulated::SequenceId id) {
    if (!std::exchange(on, false)) return;
    Worker& worker = *workers_[index];
    if (worker.down) return leave(live);  // it went with the worker
    worker.model->remove(id);
    touch(index);
    if (worker.busy) {  // it stays in the pass, whose end reads its names
      worker.departing.push_back(live_index_[live.request]);
    } else {
      if (worker.role != fleet::Role::kPrefill) grant(index);  // there is room for another
      leave(live);
    }
  };
  off(live.on_worker, live.worker, live.id);
  off(live.on_prefill, live.prefill_worker, live.prefill_id);
}

/// There is no worker for it.
void Player::shed(Live& live) {
  outcomes_[live.request].shed = outcomes_[live.request].tries == 0;
  end_badly(live);
}

void Player::end_badly(Live& live) {
  Outcome& outcome = outcomes_[live.request];
  outcome.failed = !outcome.shed;
  outcome.ended = now_;
  ++outcome.tries;
  live.ended = true;
  --in_flight_;
  ++ended_;
  if (observer_ != nullptr) observer_->ended(live.request);
  if (live.legs == 0) lives_unused_.push_back(live_index_[live.request]);
}

void Player::expire(std::uint32_t request) {
  const Outcome& outcome = outcomes_[request];
  if (outcome.completed || outcome.failed || outcome.shed) return;
  Live& live = live_of(request);
  take_off(live);
  end_badly(live);
}

void Player::tick() {
  for (std::uint32_t front = 0; front < fronts_.size(); ++front) {
    for (std::uint32_t index = 0; index < workers_.size(); ++index) {
      const Worker& worker = *workers_[index];
      if (worker.down || worker.feed == nullptr) continue;
      follower(front, index)->announced({worker.life, worker.events}, time_point(now_));
      fetch(front, index);
    }
    look(*fronts_[front]);
  }
  audit_moment();
  // If nothing else is to come, nothing ever will: run() says so.
  const bool more =
      events_.next_at() < Nanos::max() || (setup_.concurrency == 0 && arrived_ < outcomes_.size());
  if (more && ended_ < outcomes_.size()) events_.push(now_ + kTickEvery, EventKind::kTick, 0);
}

/// The worker says how much of a prompt it had.
void Player::compare(const Live& live, std::uint32_t index, std::uint32_t cached_tokens) {
  const auto block_tokens = std::uint64_t{setup_.model.block_tokens};
  if (auto* of = follower(live.front, index); of != nullptr && needs_.cached) {
    // What was only expected of others, and did not come, says nothing of its cache picture.
    const std::uint64_t reported = cached_tokens / block_tokens;
    const std::uint64_t known = std::clamp<std::uint64_t>(
        reported, live.told_blocks, std::max(live.told_blocks, live.cached_blocks));
    of->compare(known * block_tokens, reported * block_tokens);
  }
  if (auto* of = health(live.front, index)) of->token(time_point(now_));
}

/// Tells every router of the cache's changes, as far as they get there.
void Player::publish(std::uint32_t index) {
  Worker& worker = *workers_[index];
  fleet::KvBatch& batch = worker.feed->batch;
  batch.epoch = worker.life;
  batch.first = batch.last = ++worker.events;
  worker.feed->memory->append(batch);
  const Faults& faults = setup_.faults;
  for (std::uint32_t front = 0; front < fronts_.size(); ++front) {
    if (happens(faults.event_loss)) continue;
    for (int copies = happens(faults.event_duplication) ? 2 : 1; copies > 0; --copies) {
      Nanos at = now_ + setup_.event_delay;
      if (happens(faults.event_lateness)) {
        at += Nanos(static_cast<std::int64_t>(rng_.fraction() * ns(faults.event_late)));
      }
      const std::uint32_t message = new_message(index);
      messages_[message]->front = front;
      messages_[message]->kv = batch;
      events_.push(at, EventKind::kKvEvents, message);
    }
  }
}

/// Asks the worker for what the router lacks. A question or its answer may be lost.
void Player::fetch(std::uint32_t front, std::uint32_t index) {
  using Kind = fleet::KvFollower::Want::Kind;
  const Worker& worker = *workers_[index];
  fleet::KvFollower& of = *follower(front, index);
  for (;;) {
    const fleet::KvFollower::Want want = of.next(time_point(now_));
    if (want.kind == Kind::kNothing) return;
    ++(want.kind == Kind::kReplay ? kv_replays_ : kv_snapshots_);
    if (happens(setup_.faults.event_loss)) return;
    const std::uint32_t number = new_message(index);
    Message& message = *messages_[number];
    message.front = front;
    const Nanos at = now_ + std::max(kAnswerAfter, 2 * setup_.event_delay);
    if (want.kind == Kind::kSnapshot) {
      message.kv = worker.feed->memory->snapshot();
      message.kv.epoch = worker.life;
      message.kv.first = message.kv.last = worker.events;
      return events_.push(at, EventKind::kSnapshot, number);
    }
    auto replay = worker.feed->memory->replay(want.from);
    if (replay) {
      message.replay = std::move(*replay);
      return events_.push(at, EventKind::kReplayed, number);
    }
    messages_unused_.push_back(number);
    of.replay_unavailable(time_point(now_));
  }
}

/// What a worker of a life that has ended said is not heard: its connection is gone.
void Player::deliver_cache(const Message& message, EventKind kind) {
  const std::uint32_t index = message.worker;
  if (fronts_[message.front]->lives[index] != message.life || workers_[index]->down) return;
  fleet::KvFollower& of = *follower(message.front, index);
  const TimePoint now = time_point(now_);
  if (kind == EventKind::kKvEvents) of.take(message.kv, now);
  if (kind == EventKind::kReplayed) of.replayed(message.replay, now);
  if (kind == EventKind::kSnapshot) of.snapshot(message.kv, now);
  fetch(message.front, index);
}

/// Null: nothing goes wrong here.
fleet::KvFollower* Player::follower(std::uint32_t front, std::uint32_t index) {
  return fronts_[front]->registry->follower(fronts_[front]->slots[index]);
}

fleet::WorkerHealth* Player::health(std::uint32_t front, std::uint32_t index) {
  return fronts_[front]->registry->health(fronts_[front]->slots[index]);
}

}  // namespace penstock::sim
