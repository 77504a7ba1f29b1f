#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "fleet/worker_state.h"

namespace penstock::fleet {

/// Why a worker is suspect.
enum class Suspicion : std::uint8_t {
  kProbes,    // probes fail
  kSilence,   // no sign of it for too long
  kRequests,  // requests given to it fail, by its fault or the network's
  kHung,      // it answers probes, but gives no token
};
inline constexpr std::size_t kSuspicions = 4;
[[nodiscard]] std::string_view to_string(Suspicion suspicion) noexcept;

/// One worker's state from what is seen of it: probes, heartbeats, results of requests, tokens.
///
///     starting ─► ready ◄─► suspect ─► gone
///                   └─► draining ─────► gone
///
/// Only failures of the worker or the network count, never a client's, nor a full queue. A worker
/// that stopped giving tokens while its process answers is found by a canary: a real request for
/// one token, asked for when nothing was seen of its work for a while. A suspect worker is looked
/// at again after a pause that doubles each time until it has been well for `stable`; the proof
/// must be of the kind that was missing: where requests failed or hung, only a canary that comes
/// back.
///
/// Pure: time is an argument. One thread at a time.
class WorkerHealth final {
 public:
  struct Options {
    unsigned probes_failed_max = 3;                   // in a row
    unsigned requests_failed_max = 3;                 // in a row
    Nanos probe_every = std::chrono::seconds(5);      // without other signs of life
    Nanos silence_max = std::chrono::seconds(20);     // then suspect
    Nanos canary_after = std::chrono::seconds(30);    // without a token
    Nanos canary_timeout = std::chrono::seconds(30);  // without a token, since it was sent
    Nanos pause_first = std::chrono::seconds(1);
    Nanos pause_max = std::chrono::seconds(60);
    Nanos stable = std::chrono::seconds(60);
    Nanos gone_after = Nanos::max();  // without a sign of life; max(): only left() ends it
  };
  enum class Check : std::uint8_t { kNothing, kProbe, kCanary };

  explicit WorkerHealth(TimePoint now) : WorkerHealth(now, Options{}) {}
  WorkerHealth(TimePoint now, const Options& options);

  /// What was asked for by next() has come back, well or not.
  void probed(bool well, TimePoint now);
  void canary_ended(bool well, TimePoint now);
  /// The worker said by itself that it lives.
  void heartbeat(TimePoint now);
  /// It gave a token, of whatever request, or says that a pass has ended.
  void token(TimePoint now);
  /// A request given to it ended; absent: well.
  void request_ended(std::optional<FaultClass> fault, TimePoint now);
  /// It is to finish what it has, and get nothing new.
  void drain() noexcept;
  /// It will not come back under this identity.
  void left() noexcept { state_ = WorkerState::kGone; }

  /// Nobody looked for so long until now, so what the worker said meanwhile may be unread yet: that
  /// time does not count against it.
  void unwatched(Nanos time, TimePoint now);

  /// Lets the time pass, and says what to do now. Asking counts as done. Call it often.
  [[nodiscard]] Check next(TimePoint now);

  [[nodiscard]] WorkerState state() const noexcept { return state_; }
  /// It is suspect, and a canary has waited in vain, with no token of any request meanwhile: what
  /// it has been given had better go elsewhere.
  [[nodiscard]] bool hangs(TimePoint now) const noexcept;
  /// A canary was asked for, and may still come back in time.
  [[nodiscard]] bool awaits_canary() const noexcept { return canary_at_.has_value(); }
  /// Of the last time it was suspect.
  [[nodiscard]] Suspicion suspicion() const noexcept { return suspicion_; }
  [[nodiscard]] const std::array<std::uint64_t, kSuspicions>& suspected() const noexcept {
    return suspected_;
  }

 private:
  void suspect(Suspicion why, TimePoint now);
  void pause(TimePoint now);
  void ready(TimePoint now);
  [[nodiscard]] bool needs_canary() const noexcept {
    return suspicion_ == Suspicion::kRequests || suspicion_ == Suspicion::kHung;
  }

  Options options_;
  WorkerState state_ = WorkerState::kStarting;
  Suspicion suspicion_ = Suspicion::kProbes;
  std::array<std::uint64_t, kSuspicions> suspected_{};
  unsigned probes_failed_ = 0;
  unsigned requests_failed_ = 0;
  TimePoint sign_at_;   // of life
  TimePoint token_at_;  // of work
  TimePoint check_at_;  // the next one, not before
  TimePoint ready_at_;
  std::optional<TimePoint> canary_at_;  // sent, and not come back
  Nanos pause_;
};

}  // namespace penstock::fleet
