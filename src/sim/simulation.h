#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "engine/simulated/model.h"
#include "fleet/kv_batch.h"
#include "router/policy.h"
#include "sim/faults.h"
#include "sim/metrics.h"
#include "sim/trace.h"

namespace penstock::sim {

using engine::simulated::ModelOptions;
using kv::Slot;

/// Which of several routers chooses the worker.
enum class Placing : std::uint8_t {
  kTogether,  // one of them for all (placer.h), a peer delay there and another one back
  kApart,     // each for what came in at it; it sees its own picks at once, and others' in reports
};

/// Memory behind each worker's own KV, as tiers::Store keeps it (internal/tier_model.h).
struct Tiers {
  std::uint32_t host_blocks = 0;  // a worker; 0: none
  std::uint32_t disk_blocks = 0;  // as well; what is read comes by way of host memory
  double host_bytes_per_ns = 50;  // GB/s, of each load
  double disk_bytes_per_ns = 12;  // GB/s, of a worker's loads one after the other
  /// How much computing a block counts against loading it: 0: nothing is loaded, 1e9: all is.
  double recompute_weight = 1;

  [[nodiscard]] bool any() const noexcept { return host_blocks > 0 || disk_blocks > 0; }
};

/// The fleet, its faults, and how the trace is played.
struct Setup {
  std::string policy = "round-robin";
  std::uint32_t workers = 8;  // each prefills and decodes; 0 if the two below are set
  std::uint32_t prefill_workers = 0;
  std::uint32_t decode_workers = 0;
  ModelOptions model;
  double transfer_bytes_per_ns = 64;  // GB/s, of each transfer; between prefill and decode workers
  std::uint64_t kv_bytes_per_token = 131072;
  Tiers tiers;  // not with faults
  /// When a prompt may leave its prefill worker: with its first token, or, as the anchor's replay
  /// plays it, once that worker has also gone through the answer's tokens, one a pass: at no cost
  /// while it computes no prompt, but held up by other prompts' passes, and taking room in its
  /// cache.
  bool early_hand_over = false;
  /// The router decides for each request whether its prompt is computed elsewhere than its answer,
  /// as it does in `penstock serve`: decode workers then compute prompts as well, and prompts leave
  /// with their first token. What comes together to workers that do both is planned whole. Not with
  /// faults.
  bool split_when_better = false;

  double speed = 1;  // arrivals so many times as fast; > 0
  std::uint32_t concurrency =
      0;  // > 0: closed loop of so many requests; the trace's times are not used
  /// Requests of one moment are placed one after the other, as `penstock serve` places them: real
  /// ones do not come at one moment. Otherwise a policy that plans gets them in one call.
  bool one_at_a_time = false;
  std::uint64_t seed = 1;  // of everything random
  Slo slo;
  bool series = false;  // fill in Report::series, too

  std::uint32_t routers = 1;  // replicas; arrivals come in at them in turn
  Placing placing = Placing::kTogether;
  Nanos peer_delay = std::chrono::milliseconds(1);  // from one router to another
  Nanos event_delay{0};                             // from a worker's KV events to each router
  Nanos load_delay{0};                              // and from its load reports
  std::size_t index_budget_bytes = std::size_t{1} << 30;  // of each router's prefix index
  Faults faults;
};

inline constexpr std::uint32_t kWorkersMax = 16384;
inline constexpr std::uint32_t kRoutersMax = 64;

/// Hears what happens, for checkers and progress. All calls come from within run(). `request` is
/// the index in the trace.
class Observer {
 public:
  virtual ~Observer() = default;
  /// A choice of one router, before it changes anything else. `why` has every candidate.
  virtual void placed(std::size_t request, router::Stage stage, Slot worker,
                      const router::Explanation& why) {
    (void)request, (void)stage, (void)worker, (void)why;
  }
  /// Whether placed() is to be called: explanations cost time, and what is explained is placed as
  /// with Setup::one_at_a_time.
  [[nodiscard]] virtual bool wants_placements() const noexcept { return false; }
  /// What a worker says of its cache as a pass begins, before any router hears it.
  virtual void told(Slot worker, const fleet::KvBatch& batch) { (void)worker, (void)batch; }
  virtual void first_token(std::size_t request) { (void)request; }
  /// In whatever way.
  virtual void ended(std::size_t request) { (void)request; }
  /// Now and then. False: give up.
  virtual bool progress(std::uint64_t ended, std::uint64_t requests) {
    (void)ended, (void)requests;
    return true;
  }
};

/// Plays a trace against a fleet on a virtual clock. Pure and deterministic: equal arguments give
/// equal reports, to the last bit. Fails with kInvalidArgument if the setup makes no sense,
/// kCancelled if the observer gave up, kInternal if a checker of runs with faults finds that
/// anything was leaked, late, or taken for what it is not (internal/player_audit.cc).
Result<Report> simulate(const Trace& trace, const Setup& setup, Observer* observer = nullptr);

/// The same with a policy that is not in the table; `setup.policy` only names it in the report.
/// `make_policy` is called once for each router, and now and then more.
using MakePolicy = std::function<std::unique_ptr<router::Policy>()>;
Result<Report> simulate(const Trace& trace, const Setup& setup, const MakePolicy& make_policy,
                        Observer* observer = nullptr);

}  // namespace penstock::sim
