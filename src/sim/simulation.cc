#include "sim/simulation.h"

#include <fmt/format.h>

#include <cmath>

#include "sim/internal/player.h"

namespace penstock::sim {
namespace {

Result<void> check(const Faults& faults) {
  for (const double share : {faults.event_loss, faults.event_duplication, faults.event_lateness}) {
    if (!(share >= 0 && share < 1)) return invalid("shares of events must be in [0, 1)");
  }
  if (!(faults.slow_workers >= 0 && faults.slow_workers <= 1)) {
    return invalid("the share of slow workers must be in [0, 1]");
  }
  if (!(faults.slowdown >= 1) || !std::isfinite(faults.slowdown)) {
    return invalid("slow workers must be at least as slow as others");
  }
  for (const Nanos time :
       {faults.restart_every, faults.restart_takes, faults.deadline, faults.event_late}) {
    if (time < Nanos::zero()) return invalid("times must not be negative");
  }
  return {};
}

Result<void> check(const Setup& setup) {
  const bool split = setup.prefill_workers > 0 || setup.decode_workers > 0;
  if (split == (setup.workers > 0)) {
    return invalid("either workers, or prefill and decode workers are needed");
  }
  if (split && (setup.prefill_workers == 0 || setup.decode_workers == 0)) {
    return invalid("prefill and decode workers need each other");
  }
  if (setup.split_when_better && setup.faults.any()) {
    return invalid("splitting where it is better does not go with faults");
  }
  if (setup.tiers.any() && setup.faults.any()) return invalid("tiers do not go with faults");
  if (setup.tiers.disk_blocks > 0 && setup.tiers.host_blocks == 0) {
    return invalid("what is read from disk comes by way of host memory: it needs some");
  }
  if (!(setup.tiers.host_bytes_per_ns > 0) || !(setup.tiers.disk_bytes_per_ns > 0)) {
    return invalid("the bandwidth of tiers must be positive");
  }
  const std::uint64_t workers =
      std::uint64_t{setup.workers} + setup.prefill_workers + setup.decode_workers;
  if (workers > kWorkersMax) return invalid(fmt::format("more than {} workers", kWorkersMax));
  if (setup.routers < 1 || setup.routers > kRoutersMax) {
    return invalid(fmt::format("expected 1 to {} routers", kRoutersMax));
  }
  if (!(setup.speed > 0) || !std::isfinite(setup.speed)) return invalid("speed must be positive");
  if (!(setup.transfer_bytes_per_ns > 0)) return invalid("the transfer bandwidth must be positive");
  return check(setup.faults);
}

}  // namespace

Result<Report> simulate(const Trace& trace, const Setup& setup, Observer* observer) {
  const router::PolicyEntry* policy = router::find_policy(setup.policy);
  if (policy == nullptr) return invalid(fmt::format("there is no policy {}", setup.policy));
  return simulate(trace, setup, policy->make, observer);
}

Result<Report> simulate(const Trace& trace, const Setup& setup, const MakePolicy& make_policy,
                        Observer* observer) {
  const Result<void> checked = check(setup);
  if (!checked) return std::unexpected(checked.error());
  return Player(trace, setup, make_policy, observer).run();
}

}  // namespace penstock::sim
