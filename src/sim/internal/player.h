#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "sim/internal/event_queue.h"
#include "sim/internal/fleet.h"
#include "sim/simulation.h"

namespace penstock::sim {

[[nodiscard]] inline double ns(Nanos d) noexcept { return static_cast<double>(d.count()); }

/// One run of a trace. Time is a whole number of nanoseconds from the trace's first request.
///
/// At each moment, until nothing changes any more: passes and transfers that end and messages to
/// the routers, then arrivals (placed and in the worker's queue at once), then what hands prompts
/// from prefill to decode workers, then passes begin on idle workers, lowest first.
///
/// Passes that are alike are one event, unless somebody watches each of them. Whoever touches a
/// worker while it is busy calls end_after_this_pass() first.
class Player final {
 public:
  Player(const Trace& trace, const Setup& setup, const MakePolicy& make_policy, Observer* observer);

  Result<Report> run();

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  /// A prompt in the lower tiers of workers, as one router asks.
  class PromptInTiers final : public router::LowerTiers {
   public:
    PromptInTiers(const Player& player, std::uint32_t front, std::span<const kv::BlockHash> keys)
        : player_(player), front_(front), keys_(keys) {}
    [[nodiscard]] tiers::LoadChoice foresee_load(Slot slot, std::size_t have) const override;

   private:
    const Player& player_;
    std::uint32_t front_;
    std::span<const kv::BlockHash> keys_;
  };

  /// What a request holds while it is in flight. Its prompt's names must stay where they are.
  struct Live {
    std::uint32_t request = 0;
    std::uint32_t front = 0;       // the router that places it
    std::uint32_t worker = kNone;  // where the client's tokens come from
    std::uint32_t prefill_worker = kNone;
    engine::simulated::SequenceId id = 0;
    engine::simulated::SequenceId prefill_id = 0;
    bool on_worker = false;  // has a sequence there
    bool on_prefill = false;
    bool split = false;  // prefill and decode on different workers
    bool ended = false;
    std::uint32_t legs = 0;  // sequences that need `keys`; at 0, and ended, this can be used again
    std::uint32_t cached_blocks = 0;  // predicted
    std::uint32_t told_blocks = 0;    // router::Placement::told_blocks
    std::uint32_t loaded_blocks = 0;  // leading ones, of which some come from lower tiers
    std::vector<kv::BlockHash> keys;
    std::vector<std::uint64_t> locals;  // empty where the policy does not look
    std::optional<PromptInTiers> tiers;
    fleet::Lease lease;  // of the leg that runs

    // Of the leg that comes first: the prompt's, or all of it.
    std::uint32_t& first_worker() noexcept { return split ? prefill_worker : worker; }
    engine::simulated::SequenceId& first_id() noexcept { return split ? prefill_id : id; }
  };
  struct Message {  // under way to the routers
    std::uint32_t worker = 0;
    std::uint32_t life = 0;       // of the worker
    std::uint32_t front = kNone;  // kNone: to each of them
    fleet::KvBatch kv;
    std::vector<fleet::KvBatch> replay;
    fleet::WorkerReport report;
    std::vector<std::uint64_t> accepted;
  };

  // The phases of a moment; true if anything happened.
  bool handle_events();
  bool take_arrivals();
  bool hand_over();
  bool start_passes();

  // player.cc
  void sort_arrivals();
  [[nodiscard]] std::uint32_t next_request() const {
    return arrivals_.empty() ? static_cast<std::uint32_t>(arrived_) : arrivals_[arrived_];
  }
  bool start_pass(std::uint32_t worker);
  [[nodiscard]] bool outdated(const TimedEvent& event) const;
  void end_pass(std::uint32_t worker);
  void end_after_this_pass(std::uint32_t worker);
  void emit(Worker& worker, const engine::simulated::Emission& emission, std::uint32_t passes);
  void arrive(std::uint32_t request);
  void place_batch(std::uint32_t front);
  void placed(Live& live, router::Placement& placement);
  void submit(Live& live);
  void load(Live& live);
  void loaded(Live& live);
  void enqueue(Live& live);
  void finish(Live& live);
  void leave(Live& live);
  Result<router::Placement> place(Live& live, router::Stage stage);
  [[nodiscard]] router::TransferCost transfer_cost() const;
  [[nodiscard]] router::RouteRequest route_request(const Live& live, router::Stage stage) const;
  [[nodiscard]] bool can_run(const TraceRequest& request) const;
  Live& new_live(std::uint32_t request);
  [[nodiscard]] Live& live_of(std::uint64_t request) { return *lives_[live_index_[request]]; }
  void touch(std::uint32_t worker);
  void push_for(const Live& live, Nanos at, EventKind kind) {
    events_.push(at, kind, live.request, outcomes_[live.request].tries);
  }
  void act(Action::Kind kind, std::uint32_t request) {
    actions_.push_back({kind, request, outcomes_[request].tries});
  }

  // player_hand_over.cc: from prefill to decode workers.
  [[nodiscard]] bool is_prompt_leg(const Worker& worker,
                                   const engine::simulated::Emission& emission);
  std::span<const Slot> all_but_prefill_worker(const Live& live);
  void reserve(Live& live);
  void start_transfer(const Live& live);
  bool activate(const Live& live);
  bool release_source(Live& live);
  void grant(std::uint32_t worker);
  void defer(std::uint32_t worker, Action::Kind kind, std::uint32_t request);
  void wake(Worker& worker);

  // player_news.cc: what routers hear.
  void tell_cache(std::uint32_t worker);
  void tell_load(std::uint32_t worker);
  [[nodiscard]] fleet::WorkerReport report_of(Worker& worker);
  std::uint32_t new_message(std::uint32_t worker);
  void deliver(const Message& message, EventKind kind);
  [[nodiscard]] TimePoint time_point(Nanos at) const noexcept { return TimePoint(at); }

  // player_faults.cc: what goes wrong. Nothing of it is called where nothing can.
  void begin_faults();
  void join(Front& front, std::uint32_t worker);
  void look(Front& front);
  void schedule_restart(std::uint32_t worker);
  void restart(std::uint32_t worker);
  void notice_gone(std::uint32_t worker, std::uint32_t life);
  void come_up(std::uint32_t worker);
  void lose(Live& live, std::uint32_t blamed);
  void take_off(Live& live);
  void shed(Live& live);
  void end_badly(Live& live);
  void expire(std::uint32_t request);
  void tick();
  void compare(const Live& live, std::uint32_t worker, std::uint32_t cached_tokens);
  void publish(std::uint32_t worker);
  void fetch(std::uint32_t front, std::uint32_t worker);
  void deliver_cache(const Message& message, EventKind kind);
  [[nodiscard]] fleet::KvFollower* follower(std::uint32_t front, std::uint32_t worker);
  [[nodiscard]] fleet::WorkerHealth* health(std::uint32_t front, std::uint32_t worker);
  [[nodiscard]] bool happens(double probability) { return rng_.fraction() < probability; }

  // player_audit.cc: what must be true whatever goes wrong.
  void audit_moment();
  void audit_end();
  void audit_picture(std::uint32_t front, std::uint32_t worker);
  void require(bool holds, std::string_view what, std::uint64_t of);

  // player_report.cc
  [[nodiscard]] Report report() const;
  void add_latencies(Report& report) const;
  void add_tiers(Report& report) const;
  [[nodiscard]] Series series() const;
  [[nodiscard]] double imbalance() const;

  const Trace& trace_;
  const Setup& setup_;
  Observer* const observer_;
  router::Policy::Needs needs_;
  bool split_;       // prefill and decode on different workers, always
  bool decides_;     // or where the router finds that better
  bool every_pass_;  // somebody wants to know of each
  bool together_;    // one router places for several
  std::uint32_t placer_;
  Nanos now_{0};
  EventQueue events_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Front>> fronts_;
  std::vector<std::uint32_t> touched_;
  std::vector<std::uint32_t> starting_;    // scratch
  std::deque<Action> actions_;             // to be taken at this moment, in order
  std::vector<Outcome> outcomes_;          // by request
  std::vector<std::uint32_t> live_index_;  // by request
  std::vector<std::unique_ptr<Live>> lives_;
  std::vector<std::uint32_t> lives_unused_;
  std::vector<std::unique_ptr<Message>> messages_;
  std::vector<std::uint32_t> messages_unused_;
  std::vector<std::uint32_t> arrivals_;  // requests by arrival; empty: as in the trace
  std::size_t arrived_ = 0;
  std::uint32_t in_flight_ = 0;
  std::uint64_t ended_ = 0;
  std::uint64_t rejected_ = 0;
  std::uint64_t predicted_cached_tokens_ = 0;
  Nanos last_completion_{0};
  GapHistogram gaps_;
  router::Explanation why_;
  std::vector<std::vector<Live*>> batches_;     // requests of one moment, by front
  std::vector<router::RouteRequest> requests_;  // scratch
  std::vector<router::Placement> placements_;
  std::vector<std::uint32_t> order_;
  std::vector<Slot> others_;  // scratch
  std::vector<engine::simulated::BlockPool::Slot> matched_;
  // Where things go wrong.
  const bool faulty_;
  Rng rng_;
  std::uint64_t retries_ = 0;
  std::uint64_t kv_replays_ = 0;
  std::uint64_t kv_snapshots_ = 0;
  std::vector<fleet::Registry::Due> due_;  // scratch
  std::string violation_;                  // of what must be true; the first
};

}  // namespace penstock::sim
