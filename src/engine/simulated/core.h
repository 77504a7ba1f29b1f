#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/kv_event_log.h"
#include "engine/simulated/answer.h"
#include "engine/simulated/model.h"
#include "engine/simulated/simulated_engine.h"
#include "kv/local_hash.h"

namespace penstock::engine::simulated {

/// The simulated engine without its thread: requests in, passes over them, outputs to sinks. Time
/// comes in as arguments, so that a test can move it by hand.
///
/// Rounds: accept(), abort() and clear_cache() between passes; start_pass(), its duration,
/// finish_pass(); once or more often; then settle() and deliver(). Not thread safe.
class Core final : private PoolListener {
 public:
  /// Both must outlive the core.
  Core(const SimulatedOptions& options, KvEventLog& events);
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  /// Takes a request that check() has passed and whose id is not in use.
  void accept(GenerateRequest request);

  /// Ends a request with kCancelled. Unknown ids are ignored.
  void abort(RequestId id);
  void abort_all();

  /// Ends those whose deadline has passed.
  void expire(TimePoint now);

  /// See Engine::clear_cache. Between passes.
  void clear_cache();

  /// No request is left.
  [[nodiscard]] bool idle() const noexcept { return model_.idle(); }

  /// Some request must be left. `now`: when those are admitted that begin with it.
  Nanos start_pass(TimePoint now);
  /// What the pass under way computes.
  [[nodiscard]] const PassWork& pass() const noexcept { return pass_; }
  void finish_pass();

  /// Outputs made since the last deliver().
  [[nodiscard]] std::size_t undelivered() const noexcept { return undelivered_; }

  /// The requests that have ended since the last deliver().
  [[nodiscard]] const std::vector<RequestId>& ended() const noexcept { return ended_; }

  /// Hands every sink what it is owed in one call.
  void deliver();

  /// Without `generation`, the inbox and the passes.
  [[nodiscard]] LoadReport load() const;

 private:
  struct Request {
    GenerateRequest given;  // prompt included; the sink is taken from `mailbox`
    Answer answer;
    std::vector<Token> generated;
    std::vector<kv::BlockHash> keys;  // room for every block that can be completed; see Submission
    kv::BlockHash root;
    kv::LocalHasher locals;
    std::uint32_t named = 0;  // of keys, from the first
    std::uint32_t cached = 0;
    std::optional<Nanos> queued;  // absent: not admitted so far
    std::uint32_t mailbox = 0;
    SequenceId sequence = 0;
    bool live = false;
  };

  /// What one sink is owed. Kept while a live request names the sink.
  struct Mailbox {
    OutputSink* sink = nullptr;
    std::vector<Output> outputs;
    std::uint32_t requests = 0;
  };

  void stored(const StoredRun& run) override;
  void removed(std::span<const kv::BlockHash> keys) override;

  [[nodiscard]] std::uint32_t mailbox_of(OutputSink* sink);
  void emit(const Emission& emission);
  void name_blocks(Request& r);
  [[nodiscard]] std::span<const Token> block_tokens(const Request& r, std::uint32_t block);
  Output& add_output(const Request& r);
  void end(std::uint32_t index, Output& output, FinishReason reason);
  void cancel(std::uint32_t index);

  const SimulatedOptions& options_;
  KvEventLog& events_;
  SchedulerModel model_;
  const kv::BlockHash unsalted_root_;
  std::vector<Request> requests_;  // dense; a request's place is its tag in the model
  std::vector<std::uint32_t> unused_;
  std::unordered_map<RequestId, std::uint32_t> by_id_;
  std::vector<Mailbox> mailboxes_;
  std::vector<std::uint32_t> unused_mailboxes_;
  std::unordered_map<OutputSink*, std::uint32_t> by_sink_;
  std::vector<std::uint32_t> filled_;  // mailboxes with outputs
  std::size_t undelivered_ = 0;
  std::vector<RequestId> ended_;
  TimePoint next_deadline_ = TimePoint::max();  // no live request's is sooner
  PassWork pass_;
  std::uint64_t accepted_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t cached_tokens_ = 0;
  std::uint64_t completion_tokens_ = 0;
  std::vector<Token> block_;  // scratch
};

}  // namespace penstock::engine::simulated
