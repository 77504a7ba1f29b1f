#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "sim/internal/event_queue.h"
#include "sim/internal/fleet.h"
#include "sim/simulation.h"

namespace penstock::sim {

/// One run of a trace. Time is a whole number of nanoseconds from the trace's first request.
///
/// At each moment, until nothing changes any more: passes and transfers that end, then messages to
/// the routers, then arrivals (placed and in the worker's queue at once), then hand-overs between
/// prefill and decode workers, then passes begin on idle workers, lowest first.
class Player final {
 public:
  Player(const Trace& trace, const Setup& setup, const MakePolicy& make_policy, Observer* observer);

  Result<Report> run();

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  /// What a request holds while it is in flight. Its prompt's names must stay where they are.
  struct Live {
    std::uint32_t request = 0;
    std::uint32_t front = 0;
    std::uint32_t worker = kNone;  // where the client's tokens come from
    std::uint32_t prefill_worker = kNone;
    engine::simulated::SequenceId id = 0;
    engine::simulated::SequenceId prefill_id = 0;
    std::vector<kv::BlockHash> keys;
    std::vector<std::uint64_t> locals;
    fleet::Lease lease;  // of the leg that runs
  };
  struct Message {  // under way to the routers
    std::uint32_t worker = 0;
    KvBatch kv;
    fleet::WorkerReport report;
    std::vector<std::uint64_t> accepted;
  };

  // The phases of a moment; true if anything happened.
  bool handle_events();
  bool take_arrivals();
  bool hand_over();
  bool start_passes();
  bool leave_prefill();

  void end_pass(std::uint32_t worker);
  void emit(Worker& worker, const engine::simulated::Emission& emission);
  void arrive(std::uint32_t request);
  void place_batch(std::uint32_t front);
  void submit(Live& live, router::Placement& placement);
  void begin_decode(Live& live);
  void grant(std::uint32_t worker);
  void transferred(std::uint32_t request);
  void finish(Live& live);

  router::Placement place(Live& live, router::Stage stage);
  [[nodiscard]] router::RouteRequest route_request(const Live& live, router::Stage stage) const;
  [[nodiscard]] bool can_run(const TraceRequest& request) const;
  Live& new_live(std::uint32_t request);
  [[nodiscard]] Live& live_of(std::uint64_t request) { return *lives_[live_index_[request]]; }
  void touch(std::uint32_t worker);
  void tell_cache(std::uint32_t worker);
  void tell_load(std::uint32_t worker);
  [[nodiscard]] fleet::WorkerReport report_of(Worker& worker);
  std::uint32_t new_message(std::uint32_t worker);
  void deliver(const Message& message, EventKind kind);
  [[nodiscard]] TimePoint time_point(Nanos at) const noexcept { return TimePoint(at); }
  [[nodiscard]] Report report() const;
  void add_latencies(Report& report) const;
  [[nodiscard]] double imbalance() const;

  const Trace& trace_;
  const Setup& setup_;
  Observer* const observer_;
  router::Policy::Needs needs_;
  bool split_;  // prefill and decode on different workers
  Nanos now_{0};
  EventQueue events_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::unique_ptr<Front>> fronts_;
  std::vector<std::uint32_t> touched_;
  std::vector<std::uint32_t> leaving_;       // requests whose prompt is computed
  std::vector<std::uint32_t> handing_over_;  // workers with something to activate or release
  std::vector<Outcome> outcomes_;            // by request
  std::vector<std::uint32_t> live_index_;    // by request
  std::vector<std::unique_ptr<Live>> lives_;
  std::vector<std::uint32_t> lives_unused_;
  std::vector<std::unique_ptr<Message>> messages_;
  std::vector<std::uint32_t> messages_unused_;
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
  std::vector<kv::StoredBlock> scratch_;
};

}  // namespace penstock::sim
