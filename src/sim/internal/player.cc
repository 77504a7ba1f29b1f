#include "sim/internal/player.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "sim/placer.h"

namespace penstock::sim {

using engine::simulated::Emission;
using engine::simulated::Pass;
using engine::simulated::Submission;

namespace {

std::unique_ptr<TierModel> make_tiers(const Setup& setup) {
  const double block_bytes =
      static_cast<double>(setup.kv_bytes_per_token) * setup.model.block_tokens;
  const double pass_tokens = setup.model.pass_tokens_max;
  const Nanos pass =
      engine::simulated::pass_time(setup.model.clock.prefill_ms(pass_tokens), setup.model.speedup);
  return std::make_unique<TierModel>(TierModel::Options{
      .host_blocks = setup.tiers.host_blocks,
      .disk_blocks = setup.tiers.disk_blocks,
      .host_block_ns = block_bytes / setup.tiers.host_bytes_per_ns,
      .disk_block_ns = block_bytes / setup.tiers.disk_bytes_per_ns,
      .recompute_block_ns =
          setup.tiers.recompute_weight * ns(pass) / pass_tokens * setup.model.block_tokens});
}

}  // namespace

Player::Player(const Trace& trace, const Setup& setup, const MakePolicy& make_policy,
               Observer* observer)
    : trace_(trace),
      setup_(setup),
      observer_(observer),
      needs_(make_policy()->needs()),
      split_(setup.workers == 0 && !setup.split_when_better),
      decides_(setup.split_when_better),
      every_pass_(needs_.reports || needs_.outputs || setup.faults.any()),
      together_(setup.placing == Placing::kTogether && setup.routers > 1),
      outcomes_(trace.requests.size()),
      live_index_(trace.requests.size(), kNone),
      faulty_(setup.faults.any()),
      rng_(mix64(setup.seed ^ 0x6661756c7473)) {
  for (std::size_t i = 0; i < outcomes_.size(); ++i) {
    const auto ns = static_cast<double>(trace.requests[i].at.count());
    outcomes_[i].arrival = Nanos(std::llround(ns / setup.speed));
  }
  sort_arrivals();
  const auto add_workers = [&](std::uint32_t count, fleet::Role role,
                               engine::simulated::Role model_role) {
    ModelOptions options = setup.model;
    options.role = model_role;
    for (std::uint32_t i = 0; i < count; ++i) {
      workers_.push_back(std::make_unique<Worker>(options, role, setup.routers,
                                                  needs_.cached || setup.tiers.any(), faulty_));
      if (setup.tiers.any()) workers_.back()->feed->tiers = make_tiers(setup);
      if (setup.series) workers_.back()->busy_strip = std::make_unique<TimeStrip>();
    }
  };
  using ModelRole = engine::simulated::Role;
  add_workers(setup.workers, fleet::Role::kBoth, ModelRole::kAggregated);
  add_workers(setup.prefill_workers, fleet::Role::kPrefill, ModelRole::kPrefillOnly);
  add_workers(setup.decode_workers, fleet::Role::kDecode,
              decides_ ? ModelRole::kAggregated : ModelRole::kDecodeOnly);
  batches_.resize(setup.routers);
  std::vector<std::uint64_t> alive(setup.routers);
  std::iota(alive.begin(), alive.end(), 0);
  placer_ = static_cast<std::uint32_t>(*placer_of(setup.seed, alive));
  for (std::uint32_t i = 0; i < setup.routers; ++i) {
    fronts_.push_back(std::make_unique<Front>(make_policy(),
                                              static_cast<std::uint32_t>(workers_.size()),
                                              setup.index_budget_bytes, mix64(setup.seed) + i));
    Front& front = *fronts_.back();
    for (std::uint32_t index = 0; index < workers_.size() && !faulty_; ++index) {
      const auto slot = front.ledger.add(fleet::WorkerState::kReady, workers_[index]->role);
      CHECK(slot == index);
      front.slots[index] = front.workers[index] = index;
      front.ledger.set_cost(*slot, {.pass_tokens_max = setup.model.pass_tokens_max});
      if (needs_.cached) front.ledger.set_trust(*slot, fleet::Trust::kExact);
    }
  }
  if (faulty_) begin_faults();
}

/// In a closed loop requests come in the trace's order, whatever its times are.
void Player::sort_arrivals() {
  const auto earlier = [&](std::uint32_t a, std::uint32_t b) {
    return outcomes_[a].arrival < outcomes_[b].arrival;
  };
  if (setup_.concurrency > 0 || std::ranges::is_sorted(outcomes_, {}, &Outcome::arrival)) return;
  arrivals_.resize(outcomes_.size());
  std::iota(arrivals_.begin(), arrivals_.end(), 0);
  std::ranges::stable_sort(arrivals_, earlier);
}

Result<Report> Player::run() {
  constexpr std::uint32_t kLook = 128;
  for (std::uint32_t moments = 1;; ++moments) {
    bool changed = true;
    while (changed) {
      changed = handle_events();
      changed |= take_arrivals();
      changed |= hand_over();
      changed |= start_passes();
    }
    if (observer_ != nullptr && moments % kLook == 0 &&
        !observer_->progress(ended_, outcomes_.size())) {
      return fail(Code::kCancelled, "given up");
    }
    Nanos next = events_.next_at();
    if (setup_.concurrency == 0 && arrived_ < outcomes_.size()) {
      next = std::min(next, outcomes_[next_request()].arrival);
    }
    if (next == Nanos::max()) break;
    now_ = next;
  }
  if (ended_ < outcomes_.size()) {
    return fail(
        Code::kUnprocessable,
        fmt::format("{} of {} requests never end: they wait for KV blocks that others of them "
                    "hold; give the workers more blocks, or requests a deadline",
                    outcomes_.size() - ended_, outcomes_.size()));
  }
  if (faulty_) audit_end();
  if (!violation_.empty()) return fail(Code::kInternal, violation_);
  return report();
}

bool Player::handle_events() {
  bool changed = false;
  while (events_.next_at() <= now_) {
    const TimedEvent event = events_.pop();
    if (outdated(event)) continue;
    changed = true;
    switch (event.kind) {
      case EventKind::kPassEnd: end_pass(event.what); break;
      case EventKind::kTransferEnd: act(Action::Kind::kActivate, event.what); break;
      case EventKind::kLoaded: loaded(live_of(event.what)); break;
      case EventKind::kRestart: restart(event.what); break;
      case EventKind::kGone: notice_gone(event.what, event.serial); break;
      case EventKind::kWorkerUp: come_up(event.what); break;
      case EventKind::kDeadline: expire(event.what); break;
      case EventKind::kTick: tick(); break;
      case EventKind::kForwarded: {
        Live& live = live_of(event.what);
        batches_[live.front].push_back(&live);
        break;
      }
      case EventKind::kAnswered: submit(live_of(event.what)); break;
      case EventKind::kReserve: act(Action::Kind::kReserve, event.what); break;
      case EventKind::kKvEvents:
      case EventKind::kReplayed:
      case EventKind::kSnapshot:
      case EventKind::kReport:
        deliver(*messages_[event.what], event.kind);
        messages_unused_.push_back(event.what);
        break;
    }
  }
  return changed;
}

/// Of a pass or a try that came to nothing.
bool Player::outdated(const TimedEvent& event) const {
  switch (event.kind) {
    case EventKind::kPassEnd: return event.serial != workers_[event.what]->pass_serial;
    case EventKind::kTransferEnd:
    case EventKind::kLoaded:
    case EventKind::kForwarded:
    case EventKind::kAnswered:
    case EventKind::kReserve: return event.serial != outcomes_[event.what].tries;
    default: return false;
  }
}

bool Player::take_arrivals() {
  bool changed = false;
  for (; arrived_ < outcomes_.size(); ++arrived_) {
    const std::uint32_t request = next_request();
    Outcome& outcome = outcomes_[request];
    if (setup_.concurrency > 0) {
      if (in_flight_ >= setup_.concurrency) break;
      outcome.arrival = now_;
    } else if (outcome.arrival > now_) {
      break;
    }
    changed = true;
    arrive(request);
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
  if (setup_.faults.deadline > Nanos::zero()) {
    events_.push(now_ + setup_.faults.deadline, EventKind::kDeadline, request);
  }
  if (needs_.cached || needs_.active) {
    for (const kv::BlockHash& key : live.keys) live.locals.push_back(content_hash(key));
  }
  live.loaded_blocks = 0;
  live.tiers.reset();
  if (setup_.tiers.any()) live.tiers.emplace(*this, live.front, live.keys);
  if (together_) {
    // Also what came in at the placer itself: requests of one moment are placed together.
    push_for(live, now_ + setup_.peer_delay, EventKind::kForwarded);
  } else {
    batches_[live.front].push_back(&live);
  }
}

/// What has arrived at a router in this moment.
void Player::place_batch(std::uint32_t front) {
  std::vector<Live*>& batch = batches_[front];
  if (batch.empty()) return;
  const router::Stage stage = split_ ? router::Stage::kPrefill : router::Stage::kWhole;
  // What comes together to workers that may do both is planned whole.
  const bool splits = decides_ && (batch.size() == 1 || setup_.workers == 0);
  if (setup_.one_at_a_time || splits || (observer_ != nullptr && observer_->wants_placements())) {
    for (Live* live : batch) {
      Result<router::Placement> placement = place(*live, stage);
      placement ? placed(*live, *placement) : shed(*live);
    }
  } else {
    requests_.clear();
    for (const Live* live : batch) requests_.push_back(route_request(*live, stage));
    placements_.resize(batch.size());
    order_.resize(batch.size());
    const Result<void> done = fronts_[front]->router.place_together(requests_, placements_, order_);
    if (done) {
      for (const std::uint32_t i : order_) placed(*batch[i], placements_[i]);
    } else {
      for (Live* live : batch) shed(*live);
    }
  }
  batch.clear();
}

bool Player::can_run(const TraceRequest& request) const {
  // All workers are alike, and a decode worker holds the whole of it in the end.
  return workers_.back()->model->can_run(request.input_tokens, request.output_tokens);
}

/// The first worker of a request is chosen.
void Player::placed(Live& live, router::Placement& placement) {
  const std::uint64_t foreseen =
      placement.cached_blocks + (placement.fetch ? placement.fetch->blocks : 0);
  predicted_cached_tokens_ += foreseen * setup_.model.block_tokens;
  live.lease = std::move(placement.lease);
  if (needs_.taken && setup_.model.prefix_caching) {
    live.lease.taken(live.locals, placement.cached_blocks);
  }
  live.cached_blocks = placement.cached_blocks;
  live.told_blocks = placement.told_blocks;
  live.split = placement.stage == router::Stage::kPrefill;
  live.first_worker() = fronts_[live.front]->workers[placement.worker];
  if (together_) {
    // What came in at the placer waits as long: else the plan's order is lost on the way.
    push_for(live, now_ + setup_.peer_delay, EventKind::kAnswered);
  } else {
    submit(live);
  }
}

tiers::LoadChoice Player::PromptInTiers::foresee_load(Slot slot, std::size_t have) const {
  const std::uint32_t index = player_.fronts_[front_]->workers[slot];
  return player_.workers_[index]->feed->tiers->foresee(keys_, have, player_.now_);
}

void Player::submit(Live& live) {
  const std::uint32_t index = live.first_worker();
  if (workers_[index]->down) return lose(live, index);
  if (live.tiers) load(live);
  enqueue(live);
}

/// What lower tiers have of the prompt comes into the worker's pool. It keeps its place in the
/// worker's queue meanwhile, as with engines that load while others run.
void Player::load(Live& live) {
  Worker& worker = *workers_[live.first_worker()];
  matched_.clear();
  worker.model->pool().match(
      static_cast<std::uint32_t>(live.keys.size()), [&](std::uint32_t i) { return live.keys[i]; },
      matched_);
  const tiers::LoadChoice chosen = worker.feed->tiers->load(live.keys, matched_.size(), now_);
  if (chosen.blocks == 0) return;
  live.loaded_blocks = static_cast<std::uint32_t>(matched_.size()) + chosen.blocks;
  push_for(live, now_ + Nanos(std::llround(chosen.load_ns)), EventKind::kLoaded);
}

void Player::loaded(Live& live) {
  const std::uint32_t index = live.first_worker();
  engine::simulated::SchedulerModel& model = *workers_[index]->model;
  end_after_this_pass(index);
  model.take_in(std::span(live.keys).first(live.loaded_blocks), {});
  model.loaded(live.first_id());
  touch(index);
}

void Player::enqueue(Live& live) {
  const TraceRequest& request = trace_.requests[live.request];
  const std::uint32_t index = live.first_worker();
  Worker& worker = *workers_[index];
  const Submission submission{.tag = live.request,
                              .keys = live.keys,
                              .root = {},
                              .prompt_tokens = request.input_tokens,
                              .output_tokens = live.split && (decides_ || setup_.early_hand_over)
                                                   ? 1
                                                   : request.output_tokens,
                              .hold = live.split,
                              .loading = live.loaded_blocks > 0};
  live.first_id() = worker.model->submit(submission);
  (live.split ? live.on_prefill : live.on_worker) = true;
  ++live.legs;
  ++worker.accepted[live.front];
  end_after_this_pass(index);
  touch(index);
}

router::RouteRequest Player::route_request(const Live& live, router::Stage stage) const {
  const std::uint64_t beginning =
      live.keys.empty() ? std::uint64_t{live.request} + 1 : content_hash(live.keys.front());
  return {.stage = stage,
          .now = time_point(now_),
          .prompt_tokens = trace_.requests[live.request].input_tokens,
          .block_tokens = setup_.model.block_tokens,
          .locals = live.locals,
          .prefix_key = mix64(beginning),
          .split = decides_ && stage == router::Stage::kWhole ? std::optional(transfer_cost())
                                                              : std::nullopt,
          .tiers = live.tiers ? &*live.tiers : nullptr};
}

router::TransferCost Player::transfer_cost() const {
  const double bytes = static_cast<double>(setup_.kv_bytes_per_token) * setup_.model.block_tokens;
  return {.fixed_ms = 0, .block_ms = bytes / setup_.transfer_bytes_per_ns / 1e6};
}

/// Fails when no worker of the needed role takes requests.
Result<router::Placement> Player::place(Live& live, router::Stage stage) {
  const bool explain = observer_ != nullptr && observer_->wants_placements();
  router::RouteRequest request = route_request(live, stage);
  if (decides_ && stage == router::Stage::kDecode) request.among = all_but_prefill_worker(live);
  Result<router::Placement> placement =
      fronts_[live.front]->router.place(request, explain ? &why_ : nullptr);
  if (explain && placement) observer_->placed(live.request, stage, placement->worker, why_);
  return placement;
}

bool Player::start_passes() {
  if (touched_.empty()) return false;
  std::swap(touched_, starting_);
  std::ranges::sort(starting_);
  bool changed = false;
  for (const std::uint32_t index : starting_) {
    workers_[index]->touched = false;
    if (workers_[index]->down) continue;
    // Passes that take no time are over at once.
    while (start_pass(index)) {
      changed = true;
      if (workers_[index]->pass_took > Nanos::zero()) break;
      end_pass(index);
    }
    tell_load(index);
  }
  starting_.clear();
  return changed;
}

bool Player::start_pass(std::uint32_t index) {
  Worker& worker = *workers_[index];
  if (worker.busy || worker.model->idle()) return false;
  const Pass& pass = worker.model->start_pass();
  if (pass.progress) {
    worker.busy = true;
    worker.pass_started = now_;
    worker.pass_took = worker.slowdown == 1
                           ? pass.duration
                           : Nanos(std::llround(ns(pass.duration) * worker.slowdown));
    worker.pass_repeats = every_pass_ ? 1 : pass.repeats;
    worker.pass = {.prefill_tokens = static_cast<std::uint32_t>(pass.prefill_tokens),
                   .decodes = !pass.emissions.empty() && worker.role != fleet::Role::kPrefill,
                   .kv_use = static_cast<double>(worker.model->pool().active()) /
                             worker.model->pool().capacity()};
    ++worker.pass_serial;
    if (worker.pass_took > Nanos::zero()) {
      events_.push(now_ + worker.pass_took * worker.pass_repeats, EventKind::kPassEnd, index,
                   worker.pass_serial);
    }
  }
  tell_cache(index);
  return worker.busy;
}

void Player::end_pass(std::uint32_t index) {
  Worker& worker = *workers_[index];
  worker.busy = false;
  worker.last_pass = worker.pass;
  worker.last_pass_took = worker.pass_took;
  worker.computing += worker.pass_took * worker.pass_repeats;
  if (worker.busy_strip != nullptr) {
    worker.busy_strip->add(worker.pass_started, now_, ns(now_ - worker.pass_started));
  }
  wake(worker);
  for (const Emission& emission : worker.model->finish_pass(worker.pass_repeats)) {
    emit(worker, emission, worker.pass_repeats);
  }
  for (const std::uint32_t live : std::exchange(worker.departing, {})) leave(*lives_[live]);
  if (worker.role != fleet::Role::kPrefill) grant(index);
  touch(index);
}

/// Something waits for the worker to be between passes: of the passes that are alike, the one under
/// way now becomes the last.
void Player::end_after_this_pass(std::uint32_t index) {
  Worker& worker = *workers_[index];
  if (!worker.busy || worker.pass_repeats == 1) return;
  const auto ended =
      static_cast<std::uint32_t>((now_ - worker.pass_started - Nanos(1)) / worker.pass_took);
  if (ended + 1 >= worker.pass_repeats) return;
  worker.pass_repeats = ended + 1;
  events_.push(worker.pass_started + worker.pass_took * worker.pass_repeats, EventKind::kPassEnd,
               index, ++worker.pass_serial);
}

/// A sequence got a token in each of the last `passes` passes.
void Player::emit(Worker& worker, const Emission& emission, std::uint32_t passes) {
  Outcome& outcome = outcomes_[emission.tag];
  if (is_prompt_leg(worker, emission)) {
    if (!emission.last) return;
    Live& live = live_of(emission.tag);
    outcome.cached_tokens = emission.cached_tokens;
    if (faulty_) compare(live, live.prefill_worker, emission.cached_tokens);
    live.lease.release();
    if (together_) {
      push_for(live, now_ + 2 * setup_.peer_delay, EventKind::kReserve);
    } else {
      act(Action::Kind::kReserve, live.request);
    }
    return;
  }
  const Nanos earliest = worker.pass_started + worker.pass_took;
  if (outcome.tokens == 0) {
    outcome.first = earliest;
    Live& live = live_of(emission.tag);
    live.lease.first_token();
    if (faulty_ && !live.split) compare(live, live.worker, emission.cached_tokens);
    if (observer_ != nullptr) observer_->first_token(emission.tag);
  } else {
    gaps_.add(earliest - outcome.last, 1);
  }
  if (passes > 1) gaps_.add(worker.pass_took, passes - 1);
  outcome.tokens += passes;
  outcome.last = now_;
  if (needs_.outputs) live_of(emission.tag).lease.generated(passes);
  if (!emission.last) return;
  if (!live_of(emission.tag).split) outcome.cached_tokens = emission.cached_tokens;
  finish(live_of(emission.tag));
}

void Player::finish(Live& live) {
  Outcome& outcome = outcomes_[live.request];
  outcome.completed = true;
  outcome.ended = last_completion_ = now_;
  if (faulty_) {
    if (auto* of = health(live.front, live.worker)) of->request_ended({}, time_point(now_));
  }
  if (observer_ != nullptr) observer_->ended(live.request);
  live.lease.release();
  fronts_[live.front]->router.finished(to_ms(outcome.first - outcome.arrival),
                                       to_ms(outcome.last - outcome.first), outcome.tokens);
  --in_flight_;
  ++ended_;
  live.ended = true;
  live.on_worker = false;
  leave(live);
}

/// One of its sequences is off its worker.
void Player::leave(Live& live) {
  if (--live.legs == 0 && live.ended) lives_unused_.push_back(live_index_[live.request]);
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
  live.front = together_ ? placer_ : static_cast<std::uint32_t>(request % fronts_.size());
  live.worker = live.prefill_worker = kNone;
  live.on_worker = live.on_prefill = live.ended = live.split = false;
  live.legs = 0;
  return live;
}

void Player::touch(std::uint32_t index) {
  if (std::exchange(workers_[index]->touched, true)) return;
  touched_.push_back(index);
}

}  // namespace penstock::sim
