#include "sim/internal/player.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace penstock::sim {

using engine::simulated::Emission;
using engine::simulated::Pass;
using engine::simulated::Submission;

Player::Player(const Trace& trace, const Setup& setup, const MakePolicy& make_policy,
               Observer* observer)
    : trace_(trace),
      setup_(setup),
      observer_(observer),
      needs_(make_policy()->needs()),
      split_(setup.workers == 0),
      outcomes_(trace.requests.size()),
      live_index_(trace.requests.size(), kNone) {
  for (std::size_t i = 0; i < outcomes_.size(); ++i) {
    const auto ns = static_cast<double>(trace.requests[i].at.count());
    outcomes_[i].arrival = Nanos(std::llround(ns / setup.speed));
  }
  const auto add_workers = [&](std::uint32_t count, fleet::Role role,
                               engine::simulated::Role model_role) {
    ModelOptions options = setup.model;
    options.role = model_role;
    for (std::uint32_t i = 0; i < count; ++i) {
      workers_.push_back(std::make_unique<Worker>(options, role, setup.routers, needs_.cached));
    }
  };
  using ModelRole = engine::simulated::Role;
  add_workers(setup.workers, fleet::Role::kBoth, ModelRole::kAggregated);
  add_workers(setup.prefill_workers, fleet::Role::kPrefill, ModelRole::kPrefillOnly);
  add_workers(setup.decode_workers, fleet::Role::kDecode, ModelRole::kDecodeOnly);
  batches_.resize(setup.routers);
  for (std::uint32_t i = 0; i < setup.routers; ++i) {
    fronts_.push_back(
        std::make_unique<Front>(make_policy(), mix64(setup.seed) + i, setup.predict_for));
    for (const auto& worker : workers_) {
      const auto slot = fronts_.back()->ledger.add(fleet::WorkerState::kReady, worker->role);
      CHECK(slot.has_value());
      fronts_.back()->ledger.set_cost(*slot, {.pass_tokens_max = setup.model.pass_tokens_max});
      if (needs_.cached) fronts_.back()->ledger.set_trust(*slot, fleet::Trust::kExact);
    }
  }
}

Result<Report> Player::run() {
  constexpr std::uint32_t kLook = 1024;
  for (std::uint32_t moments = 1;; ++moments) {
    bool changed = true;
    while (changed) {
      changed = handle_events();
      changed |= take_arrivals();
      changed |= hand_over();
      changed |= start_passes();
      changed |= leave_prefill();
    }
    if (observer_ != nullptr && moments % kLook == 0 &&
        !observer_->progress(ended_, outcomes_.size())) {
      return fail(Code::kCancelled, "given up");
    }
    Nanos next = events_.next_at();
    if (setup_.concurrency == 0 && arrived_ < outcomes_.size()) {
      next = std::min(next, outcomes_[arrived_].arrival);
    }
    if (next == Nanos::max()) break;
    now_ = next;
  }
  CHECK_EQ(ended_, outcomes_.size());
  return report();
}

bool Player::handle_events() {
  bool changed = false;
  while (events_.next_at() <= now_) {
    changed = true;
    const TimedEvent event = events_.pop();
    switch (event.kind) {
      case EventKind::kPassEnd: end_pass(event.what); break;
      case EventKind::kTransferEnd: transferred(event.what); break;
      case EventKind::kRestart: break;
      case EventKind::kKvEvents:
      case EventKind::kReport:
        deliver(*messages_[event.what], event.kind);
        messages_unused_.push_back(event.what);
        break;
    }
  }
  return changed;
}

bool Player::take_arrivals() {
  bool changed = false;
  for (; arrived_ < outcomes_.size(); ++arrived_) {
    Outcome& outcome = outcomes_[arrived_];
    if (setup_.concurrency > 0) {
      if (in_flight_ >= setup_.concurrency) break;
      outcome.arrival = now_;
    } else if (outcome.arrival > now_) {
      break;
    }
    changed = true;
    arrive(static_cast<std::uint32_t>(arrived_));
  }
  for (std::uint32_t front = 0; front < fronts_.size(); ++front) place_batch(front);
  return changed;
}

void Player::arrive(std::uint32_t request) {
  if (!can_run(trace_.requests[request])) {
    ++rejected_;
    ++ended_;
    return;
  }
  Live& live = new_live(request);
  ++in_flight_;
  keys_of(trace_, trace_.requests[request], setup_.model.block_tokens, live.keys);
  live.locals.clear();
  for (const kv::BlockHash& key : live.keys) live.locals.push_back(content_hash(key));
  batches_[live.front].push_back(&live);
}

/// What has arrived at a router in this moment.
void Player::place_batch(std::uint32_t front) {
  std::vector<Live*>& batch = batches_[front];
  if (batch.empty()) return;
  const router::Stage stage = split_ ? router::Stage::kPrefill : router::Stage::kWhole;
  if (observer_ != nullptr && observer_->wants_placements()) {
    for (Live* live : batch) {
      router::Placement placement = place(*live, stage);
      submit(*live, placement);
    }
  } else {
    requests_.clear();
    for (const Live* live : batch) requests_.push_back(route_request(*live, stage));
    placements_.resize(batch.size());
    order_.resize(batch.size());
    const Result<void> placed =
        fronts_[front]->router.place_together(requests_, placements_, order_);
    CHECK(placed.has_value());
    for (const std::uint32_t i : order_) submit(*batch[i], placements_[i]);
  }
  batch.clear();
}

bool Player::can_run(const TraceRequest& request) const {
  // All workers of a role are alike. A decode worker holds the whole of it in the end.
  return workers_.back()->model->can_run(request.input_tokens, request.output_tokens) &&
         workers_.front()->model->can_run(request.input_tokens, 1);
}

/// Gives a new request to its first worker.
void Player::submit(Live& live, router::Placement& placement) {
  const TraceRequest& request = trace_.requests[live.request];
  predicted_cached_tokens_ += std::uint64_t{placement.cached_blocks} * setup_.model.block_tokens;
  Worker& worker = *workers_[placement.worker];
  live.lease = std::move(placement.lease);
  const Submission submission{.tag = live.request,
                              .keys = live.keys,
                              .prompt_tokens = request.input_tokens,
                              .output_tokens = split_ ? 1 : request.output_tokens,
                              .hold = split_};
  const engine::simulated::SequenceId id = worker.model->submit(submission);
  (split_ ? live.prefill_worker : live.worker) = placement.worker;
  (split_ ? live.prefill_id : live.id) = id;
  ++worker.accepted[live.front];
  touch(placement.worker);
}

router::RouteRequest Player::route_request(const Live& live, router::Stage stage) const {
  const std::uint64_t beginning =
      live.locals.empty() ? std::uint64_t{live.request} + 1 : live.locals.front();
  return {.stage = stage,
          .now = time_point(now_),
          .prompt_tokens = trace_.requests[live.request].input_tokens,
          .block_tokens = setup_.model.block_tokens,
          .locals = live.locals,
          .prefix_key = mix64(beginning)};
}

router::Placement Player::place(Live& live, router::Stage stage) {
  const bool explain = observer_ != nullptr && observer_->wants_placements();
  Result<router::Placement> placement =
      fronts_[live.front]->router.place(route_request(live, stage), explain ? &why_ : nullptr);
  CHECK(placement.has_value());
  if (explain) observer_->placed(live.request, stage, placement->worker, why_);
  return std::move(*placement);
}

bool Player::hand_over() {
  if (handing_over_.empty()) return false;
  std::ranges::sort(handing_over_);
  bool changed = false;
  std::erase_if(handing_over_, [&](std::uint32_t index) {
    Worker& worker = *workers_[index];
    if (worker.busy) return false;
    for (const auto id : worker.to_activate) worker.model->activate(id);
    for (const auto id : worker.to_release) worker.model->release_held(id);
    worker.to_activate.clear();
    worker.to_release.clear();
    touch(index);
    changed = true;
    return true;
  });
  return changed;
}

bool Player::start_passes() {
  if (touched_.empty()) return false;
  std::ranges::sort(touched_);
  bool changed = false;
  for (const std::uint32_t index : touched_) {
    Worker& worker = *workers_[index];
    worker.touched = false;
    if (worker.busy) continue;
    if (!worker.model->idle()) {
      const Pass& pass = worker.model->start_pass();
      if (pass.progress) {
        worker.busy = changed = true;
        worker.pass_started = now_;
        worker.pass_end = now_ + pass.duration;
        worker.pass = {.prefill_tokens = static_cast<std::uint32_t>(pass.prefill_tokens),
                       .decodes = !pass.emissions.empty() && worker.role != fleet::Role::kPrefill,
                       .kv_use = static_cast<double>(worker.model->pool().active()) /
                                 worker.model->pool().capacity()};
        worker.computing += pass.duration;
        events_.push(worker.pass_end, EventKind::kPassEnd, index, worker.life);
      }
      tell_cache(index);
    }
    tell_load(index);
  }
  touched_.clear();
  return changed;
}

void Player::end_pass(std::uint32_t index) {
  Worker& worker = *workers_[index];
  worker.busy = false;
  worker.last_pass = worker.pass;
  worker.last_pass_took = worker.pass_end - worker.pass_started;
  for (const Emission& emission : worker.model->finish_pass()) emit(worker, emission);
  if (worker.role == fleet::Role::kDecode) grant(index);
  touch(index);
}

void Player::emit(Worker& worker, const Emission& emission) {
  Outcome& outcome = outcomes_[emission.tag];
  if (worker.role == fleet::Role::kPrefill) {
    outcome.cached_tokens = emission.cached_tokens;
    live_of(emission.tag).lease.release();
    leaving_.push_back(static_cast<std::uint32_t>(emission.tag));
    return;
  }
  if (outcome.tokens++ == 0) {
    outcome.first = now_;
    live_of(emission.tag).lease.first_token();
    if (observer_ != nullptr) observer_->first_token(emission.tag);
  } else {
    gaps_.add(now_ - outcome.last);
  }
  outcome.last = now_;
  if (needs_.outputs) live_of(emission.tag).lease.generated(1);
  if (!emission.last) return;
  if (!split_) outcome.cached_tokens = emission.cached_tokens;
  finish(live_of(emission.tag));
}

/// A prompt leaves its prefill worker when that one rests: while it has more to compute, its passes
/// follow each other without a gap in which to hand over.
bool Player::leave_prefill() {
  return std::erase_if(leaving_, [&](std::uint32_t request) {
           Live& live = live_of(request);
           if (workers_[live.prefill_worker]->busy) return false;
           begin_decode(live);
           return true;
         }) > 0;
}

/// Chooses the decode worker and claims room there.
void Player::begin_decode(Live& live) {
  const TraceRequest& request = trace_.requests[live.request];
  router::Placement placement = place(live, router::Stage::kDecode);
  live.lease = std::move(placement.lease);
  live.worker = placement.worker;
  Worker& worker = *workers_[live.worker];
  live.id = worker.model->reserve({.tag = live.request,
                                   .keys = live.keys,
                                   .prompt_tokens = request.input_tokens,
                                   .output_tokens = request.output_tokens});
  ++worker.accepted[live.front];
  grant(live.worker);
}

/// Transfers begin where a reservation is granted.
void Player::grant(std::uint32_t index) {
  for (const auto& granted : workers_[index]->model->grant_reservations()) {
    const auto request = static_cast<std::uint32_t>(granted.tag);
    const double bytes = static_cast<double>(trace_.requests[request].input_tokens) *
                         static_cast<double>(setup_.kv_bytes_per_token);
    const Nanos took(std::llround(bytes / setup_.transfer_bytes_per_ns));
    events_.push(now_ + took, EventKind::kTransferEnd, request);
  }
  tell_cache(index);
}

void Player::transferred(std::uint32_t request) {
  const Live& live = live_of(request);
  workers_[live.worker]->to_activate.push_back(live.id);
  workers_[live.prefill_worker]->to_release.push_back(live.prefill_id);
  for (const std::uint32_t index : {live.worker, live.prefill_worker}) {
    if (std::ranges::find(handing_over_, index) == handing_over_.end()) {
      handing_over_.push_back(index);
    }
  }
}

void Player::finish(Live& live) {
  Outcome& outcome = outcomes_[live.request];
  outcome.completed = true;
  last_completion_ = now_;
  if (observer_ != nullptr) observer_->ended(live.request);
  live.lease.release();
  fronts_[live.front]->router.finished(to_ms(outcome.first - outcome.arrival),
                                       to_ms(outcome.last - outcome.first));
  --in_flight_;
  ++ended_;
  lives_unused_.push_back(live_index_[live.request]);
}

Player::Live& Player::new_live(std::uint32_t request) {
  if (lives_unused_.empty()) {
    lives_unused_.push_back(static_cast<std::uint32_t>(lives_.size()));
    lives_.push_back(std::make_unique<Live>());
  }
  live_index_[request] = lives_unused_.back();
  lives_unused_.pop_back();
  Live& live = live_of(request);
  live.request = request;
  live.front = static_cast<std::uint32_t>(request % fronts_.size());
  live.worker = live.prefill_worker = kNone;
  return live;
}

void Player::touch(std::uint32_t index) {
  if (std::exchange(workers_[index]->touched, true)) return;
  touched_.push_back(index);
}

/// Routers hear of the cache at a pass's start: what it will have computed counts as there.
void Player::tell_cache(std::uint32_t index) {
  Worker& worker = *workers_[index];
  if (worker.feed == nullptr || worker.feed->batch.empty()) return;
  if (setup_.event_delay == Nanos::zero()) {
    for (const auto& front : fronts_) worker.feed->batch.apply(front->index, index, scratch_);
  } else {
    const std::uint32_t message = new_message(index);
    std::swap(messages_[message]->kv, worker.feed->batch);
    events_.push(now_ + setup_.event_delay, EventKind::kKvEvents, message);
  }
  worker.feed->batch.clear();
}

void Player::tell_load(std::uint32_t index) {
  if (!needs_.reports) return;
  Worker& worker = *workers_[index];
  fleet::WorkerReport report = report_of(worker);
  if (setup_.load_delay == Nanos::zero()) {
    for (std::size_t i = 0; i < fronts_.size(); ++i) {
      report.accepted = worker.accepted[i];
      fronts_[i]->router.report(index, report);
    }
    return;
  }
  const std::uint32_t message = new_message(index);
  messages_[message]->report = report;
  messages_[message]->accepted = worker.accepted;
  events_.push(now_ + setup_.load_delay, EventKind::kReport, message);
}

fleet::WorkerReport Player::report_of(Worker& worker) {
  const engine::simulated::SchedulerModel& model = *worker.model;
  fleet::WorkerReport report{.generation = ++worker.reports,
                             .prefill_tokens_left = model.prompt_tokens_left(),
                             .running_prefill_tokens_left = model.running_prompt_tokens_left(),
                             .running = model.running(),
                             .waiting = model.waiting(),
                             .kv_blocks_used = model.pool().active(),
                             .kv_blocks_max = model.pool().capacity(),
                             .last_pass_took = worker.last_pass_took,
                             .last_pass = worker.last_pass};
  if (worker.busy) {
    report.pass = worker.pass;
    report.pass_started = time_point(worker.pass_started);
  }
  return report;
}

std::uint32_t Player::new_message(std::uint32_t worker) {
  if (messages_unused_.empty()) {
    messages_unused_.push_back(static_cast<std::uint32_t>(messages_.size()));
    messages_.push_back(std::make_unique<Message>());
  }
  const std::uint32_t message = messages_unused_.back();
  messages_unused_.pop_back();
  messages_[message]->worker = worker;
  messages_[message]->kv.clear();
  return message;
}

void Player::deliver(const Message& message, EventKind kind) {
  for (std::size_t i = 0; i < fronts_.size(); ++i) {
    if (kind == EventKind::kKvEvents) {
      message.kv.apply(fronts_[i]->index, message.worker, scratch_);
    } else {
      fleet::WorkerReport report = message.report;
      report.accepted = message.accepted[i];
      fronts_[i]->router.report(message.worker, report);
    }
  }
}

}  // namespace penstock::sim
