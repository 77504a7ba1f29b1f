#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "engine/change_set.h"
#include "engine/kv_ticket.h"
#include "engine/load_report.h"
#include "kv/events.h"
#include "text/answer_grammar.h"
#include "tiers/decision.h"
#include "tiers/key.h"
#include "tiers/stats.h"

namespace penstock::tiers {
class Store;
}

namespace penstock::engine {

/// How the next token is drawn. Defaults are llama.cpp's own (its `common_params_sampling`).
struct Sampling {
  float temperature = 0.8F;  // 0: greedy
  float top_p = 0.95F;       // 1: off
  float min_p = 0.05F;       // 0: off
  std::int32_t top_k = 40;   // <= 0: whole vocabulary
  float frequency_penalty = 0;
  float presence_penalty = 0;
  float repetition_penalty = 1;  // 1: off
  std::int32_t penalty_last_n = 64;
  std::optional<std::uint32_t> seed;                // absent: drawn by the engine
  std::vector<std::pair<Token, float>> logit_bias;  // -100 or below bans the token
};

enum class FinishReason : std::uint8_t {
  kStop,       // end-of-generation token, or one of stop_token_ids
  kLength,     // max_tokens, or the context is full
  kCancelled,  // abort() or the deadline
  kError,      // see Output::error
};

enum class CancelReason : std::uint8_t { kClientGone, kDeadline, kStopString, kShutdown };

struct TopLogprob {
  Token token;
  float logprob;
};

struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of those, taken from KV computed before
  std::uint32_t completion_tokens = 0;
  Nanos queued{0};  // from GenerateRequest::arrived to its admission; of no meaning without one
};

/// One step of one sequence: a token, an end, or both (the token then comes first).
struct Output {
  RequestId request;
  std::optional<Token>
      token;          // absent: only the end is told. End-of-generation tokens are not shown
  float logprob = 0;  // natural log; only if logprobs were asked for
  std::vector<TopLogprob> top;         // descending; at most GenerateRequest::top_logprobs
  std::optional<FinishReason> finish;  // present exactly once a request, in its last Output
  Usage usage;                         // valid with the first token and with finish
  std::shared_ptr<const KvTicket> kv;  // with the kLength of a request that was `prefill_only`
  std::string error;                   // with kError: for the client
  Code error_code = Code::kInternal;   // with kError: whose fault it is
};

/// Where an engine leaves what it made. One sink serves many requests, so that a step's worth of
/// outputs costs one hand-over. Called on the engine's own threads; must not block.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  virtual void deliver(std::span<Output> outputs) = 0;  // elements may be moved from
};

struct GenerateRequest {
  RequestId id;
  OutputSink* sink = nullptr;  // must outlive the request's finishing Output
  std::vector<Token> prompt;   // never empty; the engine adds nothing (no BOS)
  std::string cache_salt;      // separates tenants' KV
  /// Names of the prompt's full blocks in lower tiers, from tiers::root_key(info().kv_tiers_key,
  /// cache_salt) on, for whoever has them already; empty: the engine makes them.
  std::vector<tiers::Key> keys;
  Sampling sampling;
  text::AnswerGrammar grammar;
  std::vector<Token> stop_token_ids;
  bool ignore_eos = false;
  std::uint32_t max_tokens = 0;               // >= 1; of no meaning with prefill_only
  std::uint32_t min_tokens = 0;               // no end-of-generation before that many
  std::optional<std::uint32_t> top_logprobs;  // absent: no logprobs; 0: the drawn token's only
  std::int32_t priority = 0;                  // higher first among those waiting
  std::uint64_t tenant = 0;  // of equal priority those first whose tenant has had least (llama/)
  Deadline deadline;
  TimePoint arrived{};            // at whoever asks: it has waited since
  std::string traceparent;        // W3C trace context, for who follows requests; may be empty
  std::optional<KvTicket> fetch;  // KV of the prompt that another worker keeps for this request

  /// Computes the prompt's KV and ends with kLength, no token drawn. What was computed is kept from
  /// then on, and can be read by who has the ticket, until abort() is called for this id or for
  /// `kv_lease` at most.
  bool prefill_only = false;
  Nanos kv_lease = std::chrono::seconds(30);
};

struct EmbedRequest {
  std::vector<Token> tokens;
  Deadline deadline;
  std::stop_token stop;  // requested: nobody wants the answer any more
};

/// The store of a worker's lower tiers, others' share in it included.
struct TierState {
  std::optional<tiers::Stats> stats;    // absent: it has none, or has not told yet
  tiers::LoadCosts costs;               // that foresee_load() goes by; of a store in this process
  const tiers::Store* store = nullptr;  // if it is in this process: for who tells others of it
  std::uint64_t followed_blocks = 0;    // if it is not: of which it is known here where they lie
};

using EmbedDone = std::move_only_function<void(Result<std::vector<float>>)>;

struct EngineInfo {
  std::string model;                 // names the weights; part of every block's identity
  std::string kv_compatibility_key;  // blocks move only between engines with equal keys
  std::uint32_t block_tokens = 64;
  std::uint32_t computed_tokens_min = 1;  // of a prompt, whatever of it is cached
  std::uint32_t context_tokens_max = 0;   // prompt + completion of one request
  std::uint32_t sequences_max = 0;        // running at once
  std::uint32_t queue_max = 0;            // waiting at most
  std::uint64_t kv_blocks_max = 0;        // reusable blocks kept
  std::uint32_t vocabulary_size = 0;
  std::uint32_t embedding_size = 0;  // 0: the model cannot embed
  bool hands_kv_over = false;        // takes prefill_only, and fetches from others that do
  bool embeds_only = false;          // the model cannot generate
  std::string kv_tiers_key;  // tiers::root_key() of its blocks in lower tiers; empty: it has none
};

/// One worker, whatever runs behind it: token ids in, tokens out. Thread: any, for every call.
/// The destructor cancels what still runs, delivers those finishes, and joins its threads.
class Engine {
 public:
  virtual ~Engine() = default;

  [[nodiscard]] virtual const EngineInfo& info() const = 0;

  /// Queues the request. On success exactly one Output with `finish` will reach `sink`, also after
  /// abort() and on shutdown. Fails with kOverloaded when the queue is full, kInvalidArgument when
  /// the prompt or grammar can never run (the message says why), kUnprocessable when the model does
  /// not do that, kUnavailable when stopping; then nothing reaches the sink.
  virtual Result<void> generate(GenerateRequest request) = 0;

  /// Ends a request before its time, within one step, and the lease on the KV of one that was
  /// prefill_only and has finished. Other finished ids and unknown ones are ignored.
  virtual void abort(RequestId id, CancelReason reason) = 0;

  /// Calls `done` once, on the engine's thread, with info().embedding_size L2-normalised floats, or
  /// with kDeadlineExceeded or kCancelled when it is seen too late or stopped; a long input is
  /// looked after while it is computed.
  /// Fails at once (and never calls) with kUnprocessable when the model cannot embed, kOverloaded
  /// when the queue is full.
  virtual Result<void> embed(EmbedRequest request, EmbedDone done) = 0;

  /// Lets go of the KV that it keeps of earlier requests, within one step and before anything that
  /// is asked later begins. Blocks in use stay: those of running requests, and those kept for other
  /// workers. Told as one `cleared` event, or as `removed` ones where some stay. KV on its disk or
  /// in host memory behind it is left alone. Fails with kUnavailable when the worker is not
  /// connected, kUnprocessable when it keeps none.
  virtual Result<void> clear_cache();

  [[nodiscard]] virtual LoadReport load() const = 0;

  /// False: it cannot be reached now, and what is given to it would fail. One load.
  [[nodiscard]] virtual bool connected() const { return true; }

  /// What generate() would now load from lower tiers (tiers/) of a prompt whose full blocks are
  /// called `keys`, if the worker itself held the first `have`. Microseconds.
  [[nodiscard]] virtual tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                                       std::size_t have) const {
    (void)keys, (void)have;
    return {};
  }

  [[nodiscard]] virtual TierState tier_state() const { return {}; }

  /// Null: this worker does not tell what it caches.
  [[nodiscard]] virtual const kv::EventSource* kv_events() const = 0;

  /// Each change of what load() (but for the inbox), connected() and kv_events() say is announced:
  /// who has read them need not read them again before. False: they have to be read to know.
  [[nodiscard]] virtual bool announces_changes() const { return false; }
  /// Where: by `changes.set(at)`, from now on. To be said once; `changes` outlives this.
  void announce_changes_to(ChangeSet& changes, std::size_t at) noexcept {
    change_.announce_to(changes, at);
  }

 protected:
  ChangeBit change_;  // for those that announce
};

[[nodiscard]] std::string_view to_string(FinishReason reason) noexcept;

}  // namespace penstock::engine
