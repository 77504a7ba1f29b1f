#pragma once

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "engine/kv_ticket.h"
#include "transfer/traffic.h"

namespace penstock::engine {

/// A pass of a worker: what it computes in one go.
struct PassWork {
  std::uint32_t prefill_tokens = 0;  // new prompt tokens
  bool decodes = false;              // it continues or finishes any answer
  double kv_use = 0;                 // of the KV that running requests can use, in [0, 1]
  friend bool operator==(const PassWork&, const PassWork&) = default;
};

/// A pass that has ended.
struct TimedPass {
  std::uint64_t ordinal = 0;  // of the worker's passes, from 1; 0: there was none yet
  PassWork work;
  Nanos took{0};
  friend bool operator==(const TimedPass&, const TimedPass&) = default;
};

/// KV blocks that have come from another worker in one go.
struct TimedFetch {
  std::uint64_t ordinal = 0;  // of the worker's fetches, from 1; 0: there was none yet
  std::uint32_t blocks = 0;
  Nanos took{0};
  friend bool operator==(const TimedFetch&, const TimedFetch&) = default;
};

/// What a worker says of itself. Reports are ordered by `generation`; an older one is dropped.
struct LoadReport {
  std::uint64_t generation = 0;
  std::uint32_t running = 0;
  std::uint32_t waiting = 0;
  std::uint32_t in_inbox = 0;  // of `waiting`: handed over, and in none of the figures below
  std::uint64_t accepted = 0;  // requests taken in since start, without those in the inbox
  std::uint64_t waiting_prefill_tokens = 0;  // prompt tokens not yet computed, running or waiting
  std::uint64_t running_prefill_tokens = 0;  // of those, of requests that run
  std::uint64_t kv_blocks_used = 0;          // reusable blocks held now
  std::uint64_t kv_blocks_max = 0;
  std::uint32_t kv_blocks_active = 0;      // that running requests use, reusable or not
  std::uint32_t kv_blocks_active_max = 0;  // that they can use
  std::uint64_t steps = 0;
  std::uint64_t prompt_tokens = 0;  // totals since start
  std::uint64_t cached_tokens = 0;
  std::uint64_t completion_tokens = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t blocks_evicted = 0;
  std::uint64_t sequence_errors = 0;

  std::uint32_t kv_leases = 0;          // prompts whose KV is kept for other workers
  std::uint64_t kv_leases_lapsed = 0;   // since start: nobody gave them back in time
  std::uint64_t kv_blocks_fetched = 0;  // since start, from other workers
  std::uint64_t kv_bytes_fetched = 0;
  std::array<std::uint64_t, kFetchMisses> kv_blocks_missed{};  // by FetchMiss
  Nanos kv_fetching{0};                                        // time that fetches took, in sum
  TimedFetch last_fetch;
  transfer::Traffic::ByPath kv_transfers{};  // since start, from other workers, as attempted

  std::uint32_t pass_tokens_max = 0;          // that the next pass would take; each decoding
                                              // sequence takes one of them, prompts the rest
  Nanos prompt_token_cost{0};                 // to compute one, as the worker reckons; 0: not said
  TimePoint pass_started = TimePoint::min();  // of the pass under way; min(): none is
  PassWork pass;                              // that pass, as planned
  TimedPass last_prefill_pass;                // the last that computed any prompt token
  TimedPass last_decode_pass;                 // the last that computed none
  friend bool operator==(const LoadReport&, const LoadReport&) = default;
};

/// Times the passes of one worker for its reports. The worker's thread.
class PassTimer final {
 public:
  void begin(TimePoint now, const PassWork& planned) noexcept {
    started_ = now;
    planned_ = planned;
  }
  /// `done`: what was computed after all. A pass that did nothing is forgotten.
  void end(TimePoint now, const PassWork& done) noexcept {
    const TimedPass pass{.ordinal = passes_ + 1, .work = done, .took = now - started_};
    started_ = TimePoint::min();
    if (done.prefill_tokens == 0 && !done.decodes) return;
    ++passes_;
    (done.prefill_tokens > 0 ? prefill_ : decode_) = pass;
  }
  [[nodiscard]] bool running() const noexcept { return started_ != TimePoint::min(); }
  [[nodiscard]] const PassWork& planned() const noexcept { return planned_; }

  void write_to(LoadReport& report) const noexcept {
    report.pass_started = started_;
    report.pass = planned_;
    report.last_prefill_pass = prefill_;
    report.last_decode_pass = decode_;
  }

 private:
  std::uint64_t passes_ = 0;
  TimePoint started_ = TimePoint::min();
  PassWork planned_;
  TimedPass prefill_;
  TimedPass decode_;
};

}  // namespace penstock::engine
