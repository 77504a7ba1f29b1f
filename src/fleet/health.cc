#include "fleet/health.h"

#include <algorithm>

namespace penstock::fleet {

std::string_view to_string(Suspicion suspicion) noexcept {
  switch (suspicion) {
    case Suspicion::kProbes: return "probes";
    case Suspicion::kSilence: return "silence";
    case Suspicion::kRequests: return "requests";
    case Suspicion::kHung: return "hung";
  }
  return {};
}

WorkerHealth::WorkerHealth(TimePoint now, const Options& options)
    : options_(options),
      sign_at_(now),
      token_at_(now),
      check_at_(now),
      ready_at_(now),
      pause_(options.pause_first) {}

void WorkerHealth::probed(bool well, TimePoint now) {
  if (state_ == WorkerState::kGone) return;
  if (!well) {
    ++probes_failed_;
    if (state_ == WorkerState::kSuspect && !needs_canary()) pause(now);
    if (state_ == WorkerState::kReady && probes_failed_ >= options_.probes_failed_max) {
      suspect(Suspicion::kProbes, now);
    }
    return;
  }
  probes_failed_ = 0;
  sign_at_ = now;
  if (state_ == WorkerState::kStarting || (state_ == WorkerState::kSuspect && !needs_canary())) {
    ready(now);
  }
}

void WorkerHealth::canary_ended(bool well, TimePoint now) {
  if (!canary_at_ || state_ == WorkerState::kGone) return;
  canary_at_.reset();
  if (well) {
    token(now);
    if (state_ == WorkerState::kSuspect) ready(now);
  } else if (state_ == WorkerState::kSuspect) {
    pause(now);
  } else {
    suspect(Suspicion::kHung, now);
  }
}

/// A suspect worker's word is as good as a probe, once its pause is over.
void WorkerHealth::heartbeat(TimePoint now) {
  if (state_ == WorkerState::kSuspect && now < check_at_) {
    sign_at_ = now;
  } else {
    probed(true, now);
  }
}

void WorkerHealth::token(TimePoint now) { sign_at_ = token_at_ = now; }

void WorkerHealth::request_ended(std::optional<FaultClass> fault, TimePoint now) {
  if (!fault) {
    requests_failed_ = 0;
    token(now);
    return;
  }
  if (*fault != FaultClass::kWorker && *fault != FaultClass::kNetwork) return;
  if (++requests_failed_ >= options_.requests_failed_max && state_ == WorkerState::kReady) {
    suspect(Suspicion::kRequests, now);
  }
}

void WorkerHealth::drain() noexcept {
  if (state_ != WorkerState::kGone) state_ = WorkerState::kDraining;
}

void WorkerHealth::unwatched(Nanos time, TimePoint now) {
  const auto later = [&](TimePoint at) { return std::min(at + time, now); };
  sign_at_ = later(sign_at_);
  token_at_ = later(token_at_);
  if (canary_at_) canary_at_ = later(*canary_at_);
}

WorkerHealth::Check WorkerHealth::next(TimePoint now) {
  if (state_ == WorkerState::kGone) return Check::kNothing;
  if (options_.gone_after < now - sign_at_) {
    left();
    return Check::kNothing;
  }
  if (canary_at_ && now - std::max(*canary_at_, token_at_) >= options_.canary_timeout) {
    canary_ended(false, now);
  }
  if (state_ == WorkerState::kReady && now - sign_at_ >= options_.silence_max) {
    suspect(Suspicion::kSilence, now);
  }
  if (now < check_at_) return Check::kNothing;
  const bool silent = state_ == WorkerState::kReady && now - token_at_ >= options_.canary_after;
  const bool proof = state_ == WorkerState::kSuspect && needs_canary();
  if ((silent || proof) && !canary_at_) {
    canary_at_ = now;
    return Check::kCanary;
  }
  if (proof) return Check::kNothing;
  const Nanos every =
      state_ == WorkerState::kStarting ? options_.pause_first : options_.probe_every;
  if (state_ == WorkerState::kReady && now - sign_at_ < every) return Check::kNothing;
  check_at_ = now + every;
  return Check::kProbe;
}

bool WorkerHealth::hangs(TimePoint now) const noexcept {
  const bool suspect = state_ == WorkerState::kSuspect && needs_canary();
  return (suspect || state_ == WorkerState::kDraining) &&
         now - token_at_ - options_.canary_timeout >= options_.canary_after;
}

void WorkerHealth::suspect(Suspicion why, TimePoint now) {
  if (state_ != WorkerState::kReady) return;
  if (now - ready_at_ >= options_.stable) pause_ = options_.pause_first;
  state_ = WorkerState::kSuspect;
  suspicion_ = why;
  ++suspected_[static_cast<std::size_t>(why)];
  canary_at_.reset();
  pause(now);
}

void WorkerHealth::pause(TimePoint now) {
  check_at_ = now + pause_;
  pause_ = std::min(2 * pause_, options_.pause_max);
}

void WorkerHealth::ready(TimePoint now) {
  state_ = WorkerState::kReady;
  ready_at_ = token_at_ = now;
  check_at_ = now;
  probes_failed_ = requests_failed_ = 0;
}

}  // namespace penstock::fleet
