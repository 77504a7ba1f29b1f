#include "serve/dispatcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "base/check.h"
#include "base/rng.h"
#include "kv/local_hash.h"

namespace penstock::serve {
namespace {

std::unique_ptr<router::Policy> make_policy(std::string_view name) {
  const router::PolicyEntry* entry = router::find_policy(name);
  CHECK(entry != nullptr);
  return entry->make();
}

constexpr const char* kLabelsHeader = "x-worker-labels";

std::int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string_view first_doubt(const fleet::KvFollower& follower) {
  for (std::size_t i = 0; i < fleet::kDoubts; ++i) {
    const auto doubt = static_cast<fleet::Doubt>(i);
    if (follower.doubts(doubt)) return to_string(doubt);
  }
  return {};
}

/// Where a prompt lies in its workers' lower tiers: they are asked, so what is there since a start
/// or for another worker counts as well.
class PromptInTiers final : public router::LowerTiers {
 public:
  PromptInTiers(std::span<const std::unique_ptr<DispatchedWorker>> workers,
                std::span<const tiers::Key> keys)
      : workers_(workers), keys_(keys) {}
  [[nodiscard]] tiers::LoadChoice foresee_load(kv::Slot slot, std::size_t have) const override {
    if (slot >= workers_.size() || workers_[slot] == nullptr) return {};
    return workers_[slot]->engine->foresee_load(keys_, have);
  }

 private:
  std::span<const std::unique_ptr<DispatchedWorker>> workers_;
  std::span<const tiers::Key> keys_;
};

/// When a request that would come too late should be tried again.
int retry_after_s(double late_ms) {
  return static_cast<int>(std::clamp(std::ceil(late_ms / 1e3), 1.0, 60.0));
}

}  // namespace

Dispatcher::Dispatcher(const engine::EngineInfo& info,
                       std::vector<std::unique_ptr<engine::Engine>> engines,
                       const DispatchOptions& options, const Clock& clock)
    : policy_(options.policy),
      clock_(clock),
      info_(info),
      own_tiers_(!engines.empty() && !info.kv_tiers_key.empty()),
      block_tokens_(info.block_tokens),
      computed_tokens_min_(info.computed_tokens_min),
      joins_max_(options.joins_max),
      health_(options.health),
      tiers_key_(info.kv_tiers_key),
      changes_(engines.size() + options.joins_max),
      chores_at_(clock.now()),
      ledger_({.slots_max = static_cast<std::uint32_t>(engines.size()) + options.joins_max,
               .count_distinct_blocks = make_policy(options.policy)->needs().active}),
      // Prompts are not trusted, so whoever makes them must not know where they collide.
      index_({.context = info.model,
              .budget_bytes = options.index_bytes_max,
              .shards = 1,
              .slots_max = static_cast<kv::Slot>(engines.size()) + options.joins_max,
              .seed = std::random_device{}()}),
      registry_(ledger_, index_, {.health = options.health, .follower = {}}),
      router_(make_policy(options.policy), ledger_, index_, std::random_device{}()),
      log_(options.decisions_max) {
  for (std::unique_ptr<engine::Engine>& engine : engines) add_own(std::move(engine), options);
}

Dispatcher::~Dispatcher() { CHECK_EQ(ledger_.in_flight(), 0U); }

/// Null: the worker is gone. Whoever asks makes something of it, which the next choice is to see.
fleet::WorkerHealth* Dispatcher::health_at(const Assignment& made) {
  if (workers_[made.worker_].get() != made.at_) return nullptr;
  changes_.set(made.worker_);
  return registry_.health(made.worker_);
}

void Dispatcher::name_blocks(std::span<const Token> prompt, std::string_view cache_salt,
                             PromptBlocks& out) const {
  out.locals.clear();
  out.keys.clear();
  const router::Policy::Needs& needs = router_.needs();
  const bool all = needs.cached || needs.active;
  if (!all) prompt = prompt.first(std::min<std::size_t>(prompt.size(), block_tokens_));
  kv::LocalHasher({}, cache_salt).chain(prompt, block_tokens_, out.locals);
  if (!needs.cached) return;
  std::string key;
  {
    const std::lock_guard lock(tiers_key_mutex_);
    key = tiers_key_;
  }
  if (key.empty()) return;
  tiers::name_blocks(tiers::root_key(key, cache_salt), prompt, block_tokens_, out.keys);
}

Result<void> Dispatcher::embed(engine::EmbedRequest request, engine::EmbedDone done,
                               const DispatchRequest& where) {
  Assignment made;  // keeps the worker there while it is asked
  {
    const std::lock_guard lock(mutex_);
    const Result<std::vector<kv::Slot>> fit = wished(where);
    if (!fit) return std::unexpected(fit.error());
    const auto wanted = [&](kv::Slot slot) {
      if (where.rank) return slot == *where.rank;
      return fit->empty() || std::ranges::binary_search(*fit, slot);
    };
    catch_up(clock_.now());
    const std::span<const fleet::WorkerState> states = ledger_.view().state;
    for (const auto state : {fleet::WorkerState::kReady, fleet::WorkerState::kSuspect}) {
      for (std::size_t i = 0; i < workers_.size() && !made; ++i) {
        const auto slot = static_cast<kv::Slot>(turn_++ % workers_.size());
        if (workers_[slot] == nullptr || !wanted(slot) || states[slot] != state) continue;
        made = assign(slot, {}, clock_.now());
      }
    }
  }
  if (!made) return router::nobody_ready();
  return made.engine().embed(std::move(request), std::move(done));
}

/// Under the lock.
Assignment Dispatcher::assign(kv::Slot slot, fleet::Lease lease, TimePoint now) {
  Assignment made;
  made.dispatcher_ = this;
  made.at_ = workers_[slot].get();
  made.worker_ = slot;
  made.lease_ = std::move(lease);
  made.placed_ = now;
  ++made.at_->users;
  return made;
}

Result<Assignment> Dispatcher::place(const DispatchRequest& request) {
  const TimePoint now = clock_.now();
  const kv::Slot only = request.rank.value_or(0);
  router::RouteRequest wanted{
      .now = now,
      .prompt_tokens = static_cast<std::uint32_t>(request.prompt.size()),
      .block_tokens = block_tokens_,
      .output_tokens_max = request.output_tokens_max,
      .locals = request.locals,
      .prefix_key = mix64(request.locals.empty() ? kv::LocalHasher().block(request.prompt)
                                                 : request.locals.front()),
      .among = {},
      .twin_at = request.twin_at,
      .tail_tokens = computed_tokens_min_};
  if (request.prompt_at != nullptr) {
    wanted.stage = router::Stage::kDecode;
    wanted.prompt_at = request.prompt_at->worker_;
  }
  const bool bounded = request.first_token_by != TimePoint::max();
  if (bounded) wanted.ttft_max_ms = to_ms(request.first_token_by - now);

  std::vector<std::uint64_t> locals;
  if (predicts(wanted.stage)) locals.assign(request.locals.begin(), request.locals.end());

  const std::lock_guard lock(mutex_);
  const Result<std::vector<kv::Slot>> fit = wished(request);
  if (!fit) return std::unexpected(fit.error());
  if (request.rank && ledger_.view().role[only] == fleet::Role::kPrefill) {
    return fail(Code::kInvalidArgument,
                fmt::format("data-parallel rank {}: that worker only computes prompts", only),
                "x-data-parallel-rank");
  }
  catch_up(now);
  const PromptInTiers tiers(workers_, request.keys);
  if (!request.keys.empty()) wanted.tiers = &tiers;
  const bool splits = request.may_split && !request.locals.empty();
  if (splits || request.prompt_at != nullptr) wanted.split = transfer_;
  router::Explanation* const why = log_.keeps_any() ? &why_ : nullptr;
  const auto place_among = [&](std::span<const kv::Slot> slots) {
    wanted.among = slots;
    return router_.place(wanted, why);
  };
  Result<router::Placement> placed = fail(Code::kUnavailable, "");
  if (request.twin_at && !request.rank && has_place(*request.twin_at)) {
    placed = place_among({&*request.twin_at, 1});
  }
  if (!placed && !request.not_at.empty()) {
    const std::vector<kv::Slot> others = this->others(request, *fit);
    if (!others.empty()) placed = place_among(others);
  }
  if (!placed && request.only_others) return router::nobody_ready();
  if (!placed) placed = request.rank ? place_among({&only, 1}) : place_among(*fit);
  if (!placed) return std::unexpected(placed.error());
  Worker& worker = *workers_[placed->worker];
  const bool loads = placed->fetch && !placed->fetch->worker;
  const std::uint64_t kept = placed->cached_blocks + (loads ? placed->fetch->blocks : 0);
  const std::uint32_t predicted = reusable_tokens(wanted.prompt_tokens, kept * block_tokens_);
  const double late_ms = placed->ttft_ms - to_ms(request.first_token_by - now);
  const bool is_certain = router_.knows_times() || request.first_token_by <= now;
  const bool too_late = bounded && late_ms > 0 && is_certain;
  note(request, *placed, predicted, too_late);
  if (too_late) {
    ++worker.shed;
    ++worker.refused;
    changes_.set(placed->worker);
    return std::unexpected(
        Error{Code::kOverloaded,
              fmt::format("the first token would come in {:.0f} ms, {:.0f} ms too late",
                          placed->ttft_ms, late_ms),
              "", retry_after_s(late_ms)});
  }
  Assignment made = assign(placed->worker, std::move(placed->lease), now);
  if (request.prompt_at != nullptr) {
    made.placed_ = request.prompt_at->placed_;
    made.prompt_at_ = wanted.prompt_at;
    made.kept_tokens_ = request.kept_tokens;
  }
  made.stage_ = placed->stage;
  made.cached_blocks_ = placed->cached_blocks;
  made.predicted_cached_tokens_ = predicted;
  made.told_cached_tokens_ =
      reusable_tokens(wanted.prompt_tokens, std::uint64_t{placed->told_blocks} * block_tokens_);
  made.locals_ = std::move(locals);
  made.decision_ = log_.keeps_any() ? log_.last() : 0;
  return made;
}

Result<fleet::Role> Dispatcher::set_role(kv::Slot slot, fleet::Role role) {
  const std::lock_guard lock(mutex_);
  if (slot >= workers_.size() || workers_[slot] == nullptr) {
    return fail(Code::kNotFound, fmt::format("there is no worker {}", slot));
  }
  const fleet::Role fitting = role_for(workers_[slot]->engine->info(), role);
  if (role != fleet::Role::kBoth && fitting != role) {
    return fail(
        Code::kUnprocessable,
        fmt::format("worker {} cannot hand its KV to others: it takes whole requests", slot));
  }
  const std::span<const fleet::Role> roles = ledger_.view().role;
  bool answers = role != fleet::Role::kPrefill;
  for (kv::Slot other = 0; other < workers_.size(); ++other) {
    if (other == slot || workers_[other] == nullptr) continue;
    answers = answers || roles[other] != fleet::Role::kPrefill;
  }
  if (!answers) {
    return fail(Code::kInvalidArgument, "no worker would be left that answers", "role");
  }
  ledger_.set_role(slot, fitting);
  if (const fleet::WorkerInfo* info = registry_.info(slot)) {
    if (const std::string* process = find_label(info->labels, kProcessLabel)) {
      set_roles_[*process] = role;
    }
  }
  return fitting;
}

Result<void> Dispatcher::clear_cache(kv::Slot slot) {
  const std::lock_guard lock(mutex_);
  if (slot >= workers_.size() || workers_[slot] == nullptr) {
    return fail(Code::kNotFound, fmt::format("there is no worker {}", slot));
  }
  return workers_[slot]->engine->clear_cache();
}

/// What it can be of what is wanted: blocks are of use to workers of the same key only.
fleet::Role Dispatcher::role_for(const engine::EngineInfo& its, fleet::Role wanted) const {
  const bool shares = its.hands_kv_over && its.kv_compatibility_key == info_.kv_compatibility_key;
  return shares ? wanted : fleet::Role::kWhole;
}

void Dispatcher::learn_transfer(const engine::TimedFetch& fetch) {
  // One block tells of the fixed part, not of what a block takes.
  constexpr double kWeight = 0.2;
  constexpr double kBlocksTrusted = 8;
  if (fetch.blocks == 0) return;  // a worker may say anything
  const double block_ms = std::max(0.0, to_ms(fetch.took) - transfer_.fixed_ms) / fetch.blocks;
  const double weight = kWeight * std::min(1.0, fetch.blocks / kBlocksTrusted);
  transfer_.block_ms += weight * (block_ms - transfer_.block_ms);
}

void Dispatcher::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
}

/// Whether one more request would run there at once, as far as can be told.
bool Dispatcher::has_place(kv::Slot slot) const {
  return slot < workers_.size() && workers_[slot] != nullptr &&
         ledger_.view().state[slot] == fleet::WorkerState::kReady &&
         ledger_.view().requests[slot] < workers_[slot]->engine->info().sequences_max;
}

/// Who may take the request as its client wants it, ascending; empty: everybody.
Result<std::vector<kv::Slot>> Dispatcher::wished(const DispatchRequest& request) const {
  const kv::Slot only = request.rank.value_or(0);
  if (request.rank && (only >= workers_.size() || workers_[only] == nullptr)) {
    return fail(Code::kInvalidArgument,
                fmt::format("data-parallel rank {}: this server has no such worker", only),
                "x-data-parallel-rank");
  }
  if (request.labels.empty() && request.not_at.empty()) return std::vector<kv::Slot>();
  std::vector<kv::Slot> fit = fitting(request);
  if (request.labels.empty()) return fit;
  if (fit.empty()) {
    return std::unexpected(
        Error{Code::kUnavailable, "no worker has these labels", kLabelsHeader, 1});
  }
  if (request.rank && !std::ranges::binary_search(fit, only)) {
    return fail(Code::kInvalidArgument,
                fmt::format("data-parallel rank {}: that worker has other labels", only),
                kLabelsHeader);
  }
  return fit;
}

/// Who has the request's labels, ascending.
std::vector<kv::Slot> Dispatcher::fitting(const DispatchRequest& request) const {
  std::vector<kv::Slot> slots;
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr) continue;
    if (request.labels.empty() || registry_.has_labels(slot, request.labels)) {
      slots.push_back(slot);
    }
  }
  return slots;
}

/// Of those that fit, who has neither lost nor refused the request.
std::vector<kv::Slot> Dispatcher::others(const DispatchRequest& request,
                                         std::vector<kv::Slot> fit) const {
  const fleet::FleetView fleet = ledger_.view();
  std::erase_if(fit, [&](kv::Slot slot) {
    if (request.rank && slot != *request.rank) return true;
    if (std::ranges::find(request.not_at, slot) != request.not_at.end()) return true;
    return request.only_others && (fleet.state[slot] != fleet::WorkerState::kReady ||
                                   fleet.role[slot] == fleet::Role::kPrefill);
  });
  return fit;
}

bool Dispatcher::another_is_ready(const DispatchRequest& request) {
  const std::lock_guard lock(mutex_);
  Result<std::vector<kv::Slot>> fit = wished(request);
  catch_up(clock_.now());
  return fit && !others(request, std::move(*fit)).empty();
}

/// What the workers have done since they were last asked.
void Dispatcher::catch_up(TimePoint now) {
  changes_.sweep([&](std::size_t at) { catch_up(static_cast<kv::Slot>(at), now); });
}

/// It is looked at again only once something has changed there: what is read, what it made of a
/// request (health_at()), and, while its cache picture is not exact, the time.
void Dispatcher::catch_up(kv::Slot slot, TimePoint now) {
  if (slot >= workers_.size() || workers_[slot] == nullptr) return;
  Worker& worker = *workers_[slot];
  show_state(slot);
  bool again = !worker.engine->announces_changes();
  if (router_.needs().cached && worker.cache != nullptr) {
    worker.cache->catch_up(now);
    const fleet::Trust trust = worker.cache->follower().trust();
    ledger_.set_trust(slot, trust);
    again = again || trust != fleet::Trust::kExact;
  }
  take_report(slot, worker.engine->load(), now);
  if (again) changes_.set(slot);
}

void Dispatcher::take_report(kv::Slot slot, const engine::LoadReport& load, TimePoint now) {
  Worker& worker = *workers_[slot];
  const engine::TimedPass& prefill = load.last_prefill_pass;
  const engine::TimedPass& decode = load.last_decode_pass;
  const bool prefilled =
      std::exchange(worker.prefill_pass_seen, prefill.ordinal) != prefill.ordinal;
  if (std::exchange(worker.fetch_seen, load.last_fetch.ordinal) != load.last_fetch.ordinal) {
    learn_transfer(load.last_fetch);
  }
  const bool decoded = std::exchange(worker.decode_pass_seen, decode.ordinal) != decode.ordinal;
  if (fleet::WorkerHealth* health = prefilled || decoded ? registry_.health(slot) : nullptr) {
    health->token(now);
  }
  if (!router_.needs().reports) return;
  router_.report(slot, {.generation = load.generation,
                        .accepted = load.accepted + worker.refused,
                        .prefill_tokens_left = load.waiting_prefill_tokens,
                        .running_prefill_tokens_left = load.running_prefill_tokens,
                        .running = load.running,
                        .waiting = load.waiting - load.in_inbox,
                        .running_max = worker.engine->info().sequences_max,
                        .kv_blocks_used = load.kv_blocks_active,
                        .kv_blocks_max = load.kv_blocks_active_max,
                        .prompt_token_cost = load.prompt_token_cost,
                        .pass_started = load.pass_started,
                        .pass = load.pass,
                        .last_pass_took = decoded ? decode.took : Nanos::zero(),
                        .last_pass = decode.work});
  // After what the worker says of itself, which a pass is held against.
  if (prefilled) router_.observe(slot, prefill.work, prefill.took);
  fleet::PassCost cost = ledger_.view().cost[slot];
  cost.pass_tokens_max = load.pass_tokens_max;
  ledger_.set_cost(slot, cost);
}

/// An engine computes some tokens of a prompt whatever it holds, and the index speaks of whole
/// blocks.
std::uint32_t Dispatcher::reusable_tokens(std::uint32_t prompt_tokens,
                                          std::uint64_t cached_tokens) const {
  const std::uint64_t most = prompt_tokens - std::min(prompt_tokens, computed_tokens_min_);
  return static_cast<std::uint32_t>(std::min(most, cached_tokens) / block_tokens_) * block_tokens_;
}

void Dispatcher::note(const DispatchRequest& request, const router::Placement& placement,
                      std::uint32_t predicted_cached_tokens, bool shed) {
  if (!shed) {
    auto& rules = workers_[placement.worker]->decisions;
    auto rule = std::ranges::find(rules, placement.rule,
                                  &std::pair<std::string_view, std::uint64_t>::first);
    if (rule == rules.end()) rule = rules.insert(rule, {placement.rule, 0});
    ++rule->second;
  }
  if (!log_.keeps_any()) return;
  Decision& decision = log_.add();
  decision.unix_ms = unix_ms();
  decision.request = request.id;
  decision.rule = placement.rule;
  decision.ties = placement.ties;
  decision.worker = placement.worker;
  decision.stage = placement.stage;
  decision.shed = shed;
  decision.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
  decision.predicted_cached_tokens = predicted_cached_tokens;
  decision.fetch = placement.fetch;
  decision.predicted_ttft_ms = placement.ttft_ms;
  decision.began = false;
  decision.candidates.clear();
  const std::span<const std::uint32_t> cached = router_.last_cached();
  const auto cached_tokens = [&](kv::Slot slot) {
    return router_.needs().cached && slot < cached.size() ? cached[slot] * block_tokens_ : 0;
  };
  for (const router::Explanation::Row& row : why_.rows()) {
    decision.candidates.push_back({.worker = row.slot,
                                   .cached_tokens = cached_tokens(row.slot),
                                   .stage = row.stage,
                                   .cost = row.cost,
                                   .terms = row.terms});
  }
}

/// Of what was cached for an answer, nothing is predicted.
bool Dispatcher::predicts(router::Stage stage) const {
  return router_.needs().cached && stage != router::Stage::kDecode;
}

/// What would be predicted by now, at its worker, which has the slot still.
std::uint32_t Dispatcher::cached_now(const Assignment& made, std::uint32_t prompt_tokens,
                                     TimePoint now) {
  made.at_->cache->catch_up(now);
  depths_.assign(index_.slots(), 0);
  index_.match(made.locals_, depths_);
  const std::uint64_t blocks = made.worker_ < depths_.size() ? depths_[made.worker_] : 0;
  return reusable_tokens(prompt_tokens, blocks * block_tokens_);
}

void Dispatcher::compare(Assignment& made, const engine::Usage& usage, TimePoint now) {
  Worker& worker = *made.at_;
  const std::uint32_t reported = usage.cached_tokens / block_tokens_ * block_tokens_;
  if (predicts(made.stage_) && worker.cache != nullptr) {
    ++worker.forecast.compared;
    worker.forecast.equal += reported == made.predicted_cached_tokens_ ? 1 : 0;
    worker.forecast.predicted_tokens += made.predicted_cached_tokens_;
    worker.forecast.reported_tokens += reported;
    // What others computed or a store gave back since it was placed is in the picture by now, and
    // what was only expected of others (Assignment::taken) is not, if nothing came of it.
    std::uint32_t known = made.predicted_cached_tokens_;
    if (reported != known) {
      const std::uint32_t cached = cached_now(made, usage.prompt_tokens, now);
      known = reported > known
                  ? std::clamp(cached, known, reported)
                  : std::clamp(std::min(cached, made.told_cached_tokens_), reported, known);
    }
    worker.cache->follower().compare(known, reported);
  }
  if (made.prompt_at_ && *made.prompt_at_ != made.worker_ && made.kept_tokens_ > 0) {
    const bool came = 2 * std::uint64_t{usage.cached_tokens} >= made.kept_tokens_;
    router_.handed_over(*made.prompt_at_, made.worker_, came, now);
  }
  made.locals_ = {};
  Decision* decision = log_.find(made.decision_);
  if (decision == nullptr) return;
  decision->began = true;
  decision->reported_cached_tokens = usage.cached_tokens;
  decision->ttft_ms = to_ms(now - made.placed_);
}

DispatcherView Dispatcher::view() {
  DispatcherView view{.policy = policy_, .block_tokens = block_tokens_, .index = {}, .workers = {}};
  const std::lock_guard lock(mutex_);
  view.transfer = transfer_;
  catch_up(clock_.now());
  view.index = index_.stats();
  view.reports_stale = ledger_.reports_stale();
  const fleet::FleetView fleet = ledger_.view();
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr) continue;
    const Worker& worker = *workers_[slot];
    WorkerView& shown = view.workers.emplace_back();
    shown = {.slot = slot,
             .instance = worker.instance,
             .address = registry_.info(slot)->address,
             .labels = registry_.info(slot)->labels,
             .state = draining_ ? fleet::WorkerState::kDraining : fleet.state[slot],
             .role = fleet.role[slot],
             .trust = fleet.trust[slot],
             .doubt = {},
             .requests = fleet.requests[slot],
             .prefills = fleet.prefills[slot],
             .load = worker.engine->load(),
             .tiers = {},
             .cost = fleet.cost[slot],
             .forecast = worker.forecast,
             .suspected = registry_.health(slot)->suspected(),
             .shed = worker.shed,
             .decisions = worker.decisions};
    const engine::TierState tiers = worker.engine->tier_state();
    (worker.remote != nullptr ? shown.tiers : view.tiers) = tiers.stats;
    shown.tier_blocks = tiers.followed_blocks;
    if (worker.cache == nullptr) continue;
    const fleet::KvFollower& follower = worker.cache->follower();
    shown.doubt = first_doubt(follower);
    shown.agreement = follower.agreement();
    shown.events = follower.applied().sequence;
    shown.gaps = follower.counters().unreplayable;
    shown.snapshots = follower.counters().snapshots;
    shown.orphans = follower.counters().orphans;
    shown.doubts = follower.counters().doubts;
  }
  return view;
}

std::vector<Decision> Dispatcher::decisions() const {
  const std::lock_guard lock(mutex_);
  return log_.copy();
}

std::uint64_t Dispatcher::in_flight() const {
  const std::lock_guard lock(mutex_);
  return ledger_.in_flight();
}

std::uint64_t Dispatcher::requests_max() const {
  const std::lock_guard lock(mutex_);
  return taken_at_once();
}

std::uint64_t Dispatcher::requests_ever_max() {
  const std::lock_guard lock(mutex_);
  return requests_ever_max_ = std::max(requests_ever_max_, taken_at_once());
}

/// Under the lock.
std::uint64_t Dispatcher::taken_at_once() const {
  const fleet::FleetView fleet = ledger_.view();
  std::uint64_t sum = 0;
  for (kv::Slot slot = 0; slot < workers_.size(); ++slot) {
    if (workers_[slot] == nullptr || fleet.role[slot] == fleet::Role::kPrefill) continue;
    const fleet::WorkerState state = fleet.state[slot];
    if (state != fleet::WorkerState::kReady && state != fleet::WorkerState::kSuspect) continue;
    if (!workers_[slot]->engine->connected()) continue;
    const engine::EngineInfo& info = workers_[slot]->engine->info();
    sum += std::uint64_t{info.sequences_max} + info.queue_max;
  }
  return sum;
}

}  // namespace penstock::serve
