#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/labels.h"
#include "engine/change_set.h"
#include "engine/engine.h"
#include "engine/remote/remote_engine.h"
#include "fleet/ledger.h"
#include "fleet/registry.h"
#include "kv/prefix_index.h"
#include "router/router.h"
#include "serve/decision_log.h"
#include "serve/kv_reader.h"

namespace penstock::serve {

class Assignment;
class Dispatcher;

/// The label that says which of the processes that the front end keeps running a worker is: the
/// same when it is started again.
inline constexpr std::string_view kProcessLabel = "process";

struct DispatchOptions {
  std::string policy = "latency";     // of router::policies()
  std::uint32_t decisions_max = 256;  // the last ones are kept to be explained; 0: none
  std::size_t index_bytes_max = std::size_t{256} << 20;
  std::uint32_t joins_max = 0;          // workers of other processes, at once
  fleet::WorkerHealth::Options health;  // of those; of those here, what is about results
  std::vector<fleet::Role> roles;       // of the engines of this process; those beyond: kBoth
  Labels labels;                        // that those have
};

/// How a prompt's full blocks are called.
struct PromptBlocks {
  std::vector<std::uint64_t> locals;  // in the prefix index
  std::vector<tiers::Key> keys;       // in lower tiers; empty: there are none
};

/// What has to be known of a request to choose its worker. Views are the caller's.
struct DispatchRequest {
  std::string_view id;  // as decisions name it
  std::span<const Token> prompt;
  std::span<const std::uint64_t> locals;  // Dispatcher::name_blocks() of the prompt
  std::span<const tiers::Key> keys = {};  // as well
  std::uint32_t output_tokens_max = router::kTokensUnlimited;
  std::optional<std::uint32_t> rank;                // only this worker will do
  std::span<const Labels::value_type> labels = {};  // only one that has all of them will do
  std::optional<kv::Slot> twin_at;        // where the same prompt was just sent: goes there
                                          // as well, unless it would have to wait
  std::span<const kv::Slot> not_at = {};  // lost or refused this request: any other first
  bool only_others = false;  // or else nobody: kUnavailable where no other is ready and answers
  TimePoint first_token_by = TimePoint::max();  // later is of no use
  bool may_split = false;  // one worker may compute the prompt and another answer
  /// Its prompt was computed there, with so many tokens kept: where it is answered. Null: it is not
  /// so far.
  const Assignment* prompt_at = nullptr;
  std::uint32_t kept_tokens = 0;
};

/// How the cached prompt tokens came out that were predicted, in whole blocks: of what a worker
/// reuses beyond them (parts of blocks) nothing is predicted.
struct CacheForecast {
  std::uint64_t compared = 0;  // requests
  std::uint64_t equal = 0;     // of those, predicted to the token
  std::uint64_t predicted_tokens = 0;
  std::uint64_t reported_tokens = 0;
};

struct DispatchedWorker;

/// A request's place at a worker, from the choice to its end. Its destruction takes the request off
/// the worker's load. Movable. Thread: one at a time; calls take the dispatcher's lock.
class Assignment final {
 public:
  Assignment() = default;
  Assignment(Assignment&& other) noexcept { *this = std::move(other); }
  Assignment& operator=(Assignment&& other) noexcept;
  ~Assignment() { release(); }

  [[nodiscard]] explicit operator bool() const noexcept { return dispatcher_ != nullptr; }
  [[nodiscard]] kv::Slot worker() const noexcept { return worker_; }
  /// There until this is released, also when the worker is given up meanwhile.
  [[nodiscard]] engine::Engine& engine() const noexcept;
  /// The worker is to compute the prompt only (engine::GenerateRequest::prefill_only).
  [[nodiscard]] bool prompt_only() const noexcept { return stage_ == router::Stage::kPrefill; }
  /// The worker may be lost while this process goes on.
  [[nodiscard]] bool is_remote() const noexcept;
  /// The worker gives no tokens any more (fleet::WorkerHealth::hangs), and another would. Takes no
  /// lock.
  [[nodiscard]] bool hangs() const noexcept;

  /// The engine has taken the request: its prompt counts as there from now on.
  void taken() noexcept;
  /// The engine refused the request: its reports will never show it.
  void refused() noexcept;
  /// The first token is there. Only the first call counts.
  void first_token(const engine::Usage& usage) noexcept;
  void generated(std::uint32_t tokens) noexcept;
  /// A prompt_only request has ended well. It is no load any more, but the worker is there until
  /// this is released.
  void handed_over(const engine::Usage& usage) noexcept;
  /// It ended well. Only the first call counts.
  void finished() noexcept;
  /// It ended by somebody's fault.
  void failed(FaultClass fault) noexcept;
  /// It was a canary (Dispatcher::Chore), and has given its token or not.
  void canary_ended(bool well) noexcept;
  /// Nobody waits for this canary any more: its worker has been given up, or taken for hung.
  [[nodiscard]] bool canary_lost() const noexcept;
  void release() noexcept;

 private:
  friend class Dispatcher;
  Dispatcher* dispatcher_ = nullptr;
  DispatchedWorker* at_ = nullptr;
  kv::Slot worker_ = 0;
  fleet::Lease lease_;
  std::uint64_t decision_ = 0;
  std::uint32_t predicted_cached_tokens_ = 0;
  std::uint32_t told_cached_tokens_ = 0;  // of those, what does not depend on other requests
  std::uint32_t cached_blocks_ = 0;       // router::Placement::cached_blocks
  std::vector<std::uint64_t> locals_;  // of the prompt, until its first token; lease_ points there
  router::Stage stage_ = router::Stage::kWhole;
  std::optional<kv::Slot> prompt_at_;  // an answer's: who has computed its prompt
  std::uint32_t kept_tokens_ = 0;      // and keeps so many tokens of it
  std::uint32_t output_tokens_ = 0;
  TimePoint placed_{};
  TimePoint first_token_ = TimePoint::min();  // min(): not yet
};

/// One worker at one moment.
struct WorkerView {
  kv::Slot slot = 0;     // its number, until it is gone
  std::string instance;  // which life of it; empty: of this process
  std::string address;   // where it is; empty: in this process
  Labels labels;
  fleet::WorkerState state{};
  fleet::Role role{};
  fleet::Trust trust{};
  std::string_view doubt;             // why it is degraded; or empty
  std::uint32_t requests = 0;         // given to it and not ended
  std::uint32_t prefills = 0;         // of those, without a first token
  engine::LoadReport load;            // what it says itself
  std::optional<tiers::Stats> tiers;  // behind it, if it is of another process
  std::uint64_t tier_blocks = 0;      // of those, so many are known here by place
  fleet::PassCost cost;               // as fitted
  CacheForecast forecast;
  double agreement = 1;         // of predicted and reported, lately
  std::uint64_t events = 0;     // of its cache, applied
  std::uint64_t gaps = 0;       // events that were gone before they were read, so many times
  std::uint64_t snapshots = 0;  // taken in
  std::uint64_t orphans = 0;    // fleet::KvFollower::Counters, as what follows
  std::array<std::uint64_t, fleet::kDoubts> doubts{};
  std::array<std::uint64_t, fleet::kSuspicions> suspected{};  // times, by fleet::Suspicion
  std::uint64_t shed = 0;  // requests that would have come too late here
  std::vector<std::pair<std::string_view, std::uint64_t>> decisions;  // by rule
};

struct DispatcherView {
  std::string_view policy;
  std::uint32_t block_tokens = 0;
  router::TransferCost transfer;      // of KV between workers, as measured
  std::optional<tiers::Stats> tiers;  // behind the workers of this process, who share them
  kv::PrefixIndex::Stats index;
  std::uint64_t reports_stale = 0;  // dropped: newer ones had come before
  std::vector<WorkerView> workers;
};

/// A worker as its dispatcher keeps it; under the dispatcher's lock.
struct DispatchedWorker {
  std::unique_ptr<engine::Engine> engine;
  engine::RemoteEngine* remote = nullptr;  // the engine, if it is in another process
  std::string instance;                    // of that
  bool was_connected = false;
  bool given_up = false;
  std::atomic<bool> hangs = false;  // Assignment::hangs(); by the last chores()
  std::uint32_t users = 0;          // assignments that point here
  std::unique_ptr<KvReader> cache;  // null: it tells nothing
  std::uint64_t refused = 0;        // charged, but never accepted
  std::uint64_t prefill_pass_seen = 0;
  std::uint64_t decode_pass_seen = 0;
  std::uint64_t fetch_seen = 0;
  CacheForecast forecast;
  std::uint64_t shed = 0;
  std::vector<std::pair<std::string_view, std::uint64_t>> decisions;
};

/// The workers of a served model, and who gets which request: the router, its ledger and prefix
/// index, and what feeds them. A choice first takes in what the workers have done since the last
/// one, so it is made on what is, not on what was.
///
/// Thread: any. One lock, held for microseconds: router, ledger and index belong to whoever holds
/// it. Assignments must not outlive the dispatcher.
class Dispatcher final {
 public:
  /// `engines`: of this process. `info`: what each worker is, but for its limits. The policy must
  /// exist (CHECKed).
  Dispatcher(const engine::EngineInfo& info, std::vector<std::unique_ptr<engine::Engine>> engines,
             const DispatchOptions& options, const Clock& clock);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  [[nodiscard]] const engine::EngineInfo& info() const noexcept { return info_; }
  [[nodiscard]] std::string_view policy() const noexcept { return policy_; }

  /// What DispatchRequest wants, in place of what `out` holds: names of each block, or of the first
  /// alone for a policy that does not ask what is cached where. Hashes under no lock.
  void name_blocks(std::span<const Token> prompt, std::string_view cache_salt,
                   PromptBlocks& out) const;

  /// Chooses a worker and charges it. Fails with kInvalidArgument when there is no worker of the
  /// rank, kOverloaded (and when to come back) when the first token would come too late,
  /// kUnavailable when no worker takes requests.
  Result<Assignment> place(const DispatchRequest& request);
  /// Whether place() with `only_others` would find one.
  [[nodiscard]] bool another_is_ready(const DispatchRequest& request);

  /// Changes what a worker takes from now on, and if it has a kProcessLabel what takes its place
  /// when it is started again; what it has goes on. Gives the role that it has now: kWhole instead
  /// of kBoth where its KV cannot go to others. Fails with kNotFound when there is none of that
  /// number, kUnprocessable when its KV cannot go to others, kInvalidArgument when nobody would be
  /// left to answer.
  Result<fleet::Role> set_role(kv::Slot slot, fleet::Role role);

  /// See engine::Engine::clear_cache; and fails with kNotFound when there is none of that number.
  Result<void> clear_cache(kv::Slot slot);

  /// Shows the workers as draining. Requests that were let in before are still placed: it is the
  /// service that lets nobody in any more.
  void drain();

  /// Asks the ready workers in turn, since embeddings leave nothing cached, and suspect ones if
  /// there is no other; of `where`, rank and labels count. As Engine::embed; fails as place() does.
  Result<void> embed(engine::EmbedRequest request, engine::EmbedDone done,
                     const DispatchRequest& where = {});

  // Which workers there are (dispatcher_fleet.cc). Those of other processes are known by their
  // instance; one that is unknown by now is ignored. Thread: any, but for chores().

  using Connect = std::function<std::unique_ptr<engine::RemoteEngine>()>;
  /// Takes a worker in under its instance. Fails as fleet::Registry::join, and when it is no worker
  /// for this model (kInvalidArgument). `connect` is called, under the lock, for one that is taken
  /// in and no other: whoever calls this may be where an engine must not end.
  Result<void> join(const fleet::WorkerInfo& who, const engine::EngineInfo& its,
                    const Connect& connect);
  /// The worker says that it lives, and whether it is draining. False: it is unknown.
  bool heartbeat(std::string_view instance, bool draining);
  void leave(std::string_view instance);
  void probed(std::string_view instance, bool well);

  /// A worker that has to be looked after: probed, or (then it has a place) asked for one token.
  struct Chore {
    std::string instance;                   // kProbe: whose
    engine::RemoteEngine* probe = nullptr;  // kProbe: there until the next chores()
    Assignment canary;                      // kCanary: what the request is charged as
  };
  /// Lets the time pass: states, leases, the ends of those that are gone. To be called every few
  /// moments, by one thread. When it was not for a second or more, as in a process that was stopped
  /// or short of time, what workers said meanwhile may be unread: that time does not count.
  std::vector<Chore> chores();
  /// Ends what the workers of other processes have been given. No chores() from then on.
  void give_up_workers();

  [[nodiscard]] DispatcherView view();
  [[nodiscard]] std::vector<Decision> decisions() const;
  /// Names of what decisions' candidates are weighed by.
  [[nodiscard]] std::span<const std::string_view> terms() const noexcept { return terms_; }
  /// Placed and not given back.
  [[nodiscard]] std::uint64_t in_flight() const;
  /// What the workers that answer take at once, running and waiting. 0: none of them takes requests
  /// now.
  [[nodiscard]] std::uint64_t requests_max() const;
  /// The same at its most so far: workers that restart will take as many again. 0: there was none
  /// yet.
  [[nodiscard]] std::uint64_t requests_ever_max();

 private:
  friend class Assignment;
  using Worker = DispatchedWorker;

  // All under the lock.
  [[nodiscard]] bool has_place(kv::Slot slot) const;
  [[nodiscard]] std::uint64_t taken_at_once() const;
  [[nodiscard]] std::vector<kv::Slot> fitting(const DispatchRequest& request) const;
  [[nodiscard]] Result<std::vector<kv::Slot>> wished(const DispatchRequest& request) const;
  void catch_up(TimePoint now);
  void catch_up(kv::Slot slot, TimePoint now);
  void take_report(kv::Slot slot, const engine::LoadReport& load, TimePoint now);
  void learn_transfer(const engine::TimedFetch& fetch);
  [[nodiscard]] fleet::Role role_for(const engine::EngineInfo& its, fleet::Role wanted) const;
  void follow(kv::Slot slot);
  void add_own(std::unique_ptr<engine::Engine> engine, const DispatchOptions& options);
  void show_state(kv::Slot slot);
  void show_who_hangs(TimePoint now);
  void retire_gone();
  void agree_on_tiers_key();
  [[nodiscard]] std::vector<kv::Slot> others(const DispatchRequest& request,
                                             std::vector<kv::Slot> fit) const;
  [[nodiscard]] kv::Slot slot_of(std::string_view instance) const;
  [[nodiscard]] fleet::WorkerHealth* health_at(const Assignment& made);
  Assignment assign(kv::Slot slot, fleet::Lease lease, TimePoint now);
  void note(const DispatchRequest& request, const router::Placement& placement,
            std::uint32_t predicted_cached_tokens, bool shed);
  [[nodiscard]] bool predicts(router::Stage stage) const;
  void compare(Assignment& made, const engine::Usage& usage, TimePoint now);
  [[nodiscard]] std::uint32_t reusable_tokens(std::uint32_t prompt_tokens,
                                              std::uint64_t cached_tokens) const;
  [[nodiscard]] std::uint32_t cached_now(const Assignment& made, std::uint32_t prompt_tokens,
                                         TimePoint now);

  const std::string policy_;
  const Clock& clock_;
  const engine::EngineInfo info_;
  const bool own_tiers_;  // engines of this process have lower tiers
  const std::uint32_t block_tokens_;
  const std::uint32_t computed_tokens_min_;
  const std::uint32_t joins_max_;
  const fleet::WorkerHealth::Options health_;  // of workers of other processes

  mutable std::mutex tiers_key_mutex_;
  std::string tiers_key_;  // EngineInfo::kv_tiers_key of most workers; empty: none has lower tiers

  engine::ChangeSet changes_;  // by slot: who is to be looked at before the next choice
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;            // by slot; null: nobody has it
  std::vector<std::unique_ptr<Worker>> retired_;            // gone; until the last assignment is
  std::unordered_map<std::string, fleet::Role> set_roles_;  // by kProcessLabel, as last set
  std::uint32_t turn_ = 0;
  std::uint64_t requests_ever_max_ = 0;
  TimePoint chores_at_;  // the last ones
  bool draining_ = false;
  fleet::Ledger ledger_;
  kv::PrefixIndex index_;
  fleet::Registry registry_;
  router::Router router_;
  const std::span<const std::string_view> terms_ = router_.policy().terms();
  router::Explanation why_;
  std::vector<std::uint32_t> depths_;  // by slot, scratch
  router::TransferCost transfer_{.fixed_ms = 2, .block_ms = 0.5};
  DecisionLog log_;
};

}  // namespace penstock::serve
