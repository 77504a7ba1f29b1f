#include "engine/simulated/simulated_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <thread>
#include <utility>

#include "base/check.h"
#include "engine/kv_event_log.h"
#include "engine/request_inbox.h"
#include "engine/simulated/answer.h"
#include "engine/simulated/core.h"

namespace penstock::engine {
namespace {

/// When passes take no time, so many outputs or passes (whichever comes first) share a delivery:
/// enough to spread its cost, few enough that no sink waits noticeably.
constexpr std::size_t kOutputsPerDelivery = 1024;
constexpr std::size_t kPassesPerDelivery = 256;

/// A pass that ended late lets the next one start as if it had not, so that the delays of waking up
/// do not add up; but no further back than this.
constexpr Nanos kCatchUpMax = std::chrono::milliseconds(50);

EngineInfo info_of(const SimulatedOptions& options) {
  const Token greatest = *std::ranges::max_element(options.vocabulary);
  return {.model = options.model,
          .kv_compatibility_key =
              fmt::format("simulated/{}/{}", options.model, options.worker.block_tokens),
          .block_tokens = options.worker.block_tokens,
          .context_tokens_max = simulated::context_tokens_max(options),
          .sequences_max = options.worker.sequences_max,
          .queue_max = options.queue_max,
          .kv_blocks_max = options.worker.prefix_caching ? options.worker.kv_blocks : 0,
          .vocabulary_size = options.vocabulary_size > 0 ? options.vocabulary_size
                                                         : static_cast<std::uint32_t>(greatest) + 1,
          .embedding_size = options.embedding_size};
}

class SimulatedEngine final : public Engine {
 public:
  SimulatedEngine(SimulatedOptions options, const Clock& clock)
      : options_(std::move(options)),
        clock_(clock),
        info_(info_of(options_)),
        events_(options_.kv_events_max, options_.kv_event_tokens, &change_),
        inbox_({.sequences_max = options_.worker.sequences_max,
                .queue_max = options_.queue_max,
                .retry_after_s = options_.retry_after_s}),
        core_(options_, events_),
        load_(core_.load()),
        thread_([this] { run(); }) {}

  ~SimulatedEngine() override {
    inbox_.close();
    thread_.join();
  }

  SimulatedEngine(const SimulatedEngine&) = delete;
  SimulatedEngine& operator=(const SimulatedEngine&) = delete;

  [[nodiscard]] const EngineInfo& info() const override { return info_; }
  Result<void> generate(GenerateRequest request) override;
  void abort(RequestId id, CancelReason reason) override { inbox_.abort(id, reason); }
  Result<void> embed(EmbedRequest request, EmbedDone done) override;
  Result<void> clear_cache() override;
  [[nodiscard]] LoadReport load() const override;
  [[nodiscard]] const kv::EventSource* kv_events() const override {
    return options_.worker.prefix_caching ? &events_ : nullptr;
  }
  [[nodiscard]] bool announces_changes() const override { return true; }

 private:
  void run();
  void accept_batch();
  void run_timed_pass();
  void run_passes();
  void publish(std::span<const RequestId> ended);
  void settle();
  void shut_down();

  const SimulatedOptions options_;
  const Clock& clock_;
  const EngineInfo info_;
  KvEventLog events_;
  RequestInbox<GenerateRequest> inbox_;

  // The engine thread's.
  simulated::Core core_;
  InboxBatch<GenerateRequest> batch_;
  TimePoint pass_end_ = TimePoint::min();  // of the last pass, by the model
  PassTimer passes_;                       // while passes take time

  mutable std::mutex load_mutex_;
  LoadReport load_;  // as of the last publish()
  mutable std::uint64_t generation_ = 0;

  std::thread thread_;  // last: it uses all the others
};

Result<void> SimulatedEngine::generate(GenerateRequest request) {
  CHECK(request.sink != nullptr);
  if (request.prompt.empty()) {
    return fail(Code::kInvalidArgument, "the prompt has no tokens");
  }
  if (request.max_tokens == 0) {
    return fail(Code::kInvalidArgument, "max_tokens must be at least 1", "max_tokens");
  }
  if (request.prompt.size() >= info_.context_tokens_max) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("the prompt has {} tokens; with at least one of the answer, this model's "
                    "context holds {}",
                    request.prompt.size(), info_.context_tokens_max));
  }
  if (!request.grammar.gbnf.empty()) {
    return fail(Code::kUnprocessable,
                "the simulated engine has no model and cannot follow a grammar");
  }
  const RequestId id = request.id;
  return inbox_.submit(id, std::move(request));
}

Result<void> SimulatedEngine::embed(EmbedRequest request, EmbedDone done) {
  if (options_.embedding_size == 0) {
    return fail(Code::kUnprocessable, fmt::format("the model {} cannot embed", info_.model));
  }
  if (request.tokens.empty() || request.tokens.size() > info_.context_tokens_max) {
    return fail(Code::kInvalidArgument,
                fmt::format("an input to embed must have 1 to {} tokens, not {}",
                            info_.context_tokens_max, request.tokens.size()));
  }
  return inbox_.submit(std::move(request), std::move(done));
}

Result<void> SimulatedEngine::clear_cache() {
  if (info_.kv_blocks_max == 0) return Engine::clear_cache();
  inbox_.clear_cache();
  return {};
}

LoadReport SimulatedEngine::load() const {
  const std::lock_guard lock(load_mutex_);
  LoadReport report = load_;
  report.in_inbox = inbox_.unreported();
  report.waiting += report.in_inbox;
  report.generation = ++generation_;
  return report;
}

void SimulatedEngine::run() {
  while (true) {
    const bool open = core_.idle() ? inbox_.wait(batch_) : inbox_.take(batch_);
    accept_batch();
    if (!open) break;
    core_.expire(clock_.now());
    if (!core_.idle()) {
      if (std::isinf(options_.worker.speedup)) {
        run_passes();
      } else {
        run_timed_pass();
      }
    }
    settle();
  }
  shut_down();
}

void SimulatedEngine::accept_batch() {
  if (batch_.clear_cache) core_.clear_cache();
  for (GenerateRequest& request : batch_.requests) core_.accept(std::move(request));
  for (const Abort& abort : batch_.aborts) core_.abort(abort.id);
  for (EmbedJob& job : batch_.embeds) {
    if (const Result<void> fine = goes_on(job.request, clock_.now()); !fine) {
      job.done(std::unexpected(fine.error()));
      continue;
    }
    job.done(simulated::embedding(job.request.tokens, options_.embedding_size));
  }
  batch_.clear();
}

void SimulatedEngine::run_timed_pass() {
  const TimePoint now = clock_.now();
  const TimePoint start = pass_end_ > now - kCatchUpMax ? std::min(pass_end_, now) : now;
  pass_end_ = start + core_.start_pass(now);
  passes_.begin(start, core_.pass());
  publish({});
  inbox_.sleep(pass_end_ - clock_.now());
  core_.finish_pass();
  passes_.end(pass_end_, core_.pass());
  // An idle engine owes nothing to the past.
  if (core_.idle()) pass_end_ = TimePoint::min();
}

/// Many passes that take no time, letting in whoever comes.
void SimulatedEngine::run_passes() {
  const TimePoint now = clock_.now();
  for (std::size_t passes = 0;
       passes < kPassesPerDelivery && !core_.idle() && core_.undelivered() < kOutputsPerDelivery;
       ++passes) {
    core_.start_pass(now);
    core_.finish_pass();
    if (inbox_.attention() && inbox_.take(batch_)) accept_batch();
  }
}

void SimulatedEngine::publish(std::span<const RequestId> ended) {
  LoadReport load = core_.load();
  passes_.write_to(load);
  // Under one lock, so that no request is counted twice or not at all.
  const std::lock_guard lock(load_mutex_);
  load_ = load;
  inbox_.report(load_.running, load_.waiting, ended);
  change_.set();
}

/// What others may see of the passes, before they hear of them.
void SimulatedEngine::settle() {
  publish(core_.ended());
  core_.deliver();
}

void SimulatedEngine::shut_down() {
  core_.abort_all();
  settle();
}

}  // namespace

std::unique_ptr<Engine> make_simulated_engine(SimulatedOptions options, const Clock& clock) {
  CHECK(!options.vocabulary.empty());
  CHECK(*std::ranges::min_element(options.vocabulary) >= 0);
  CHECK(options.eos_probability >= 0 && options.eos_probability <= 1);
  CHECK_GE(simulated::context_tokens_max(options), 2U);
  CHECK(options.worker.role == simulated::Role::kAggregated);
  return std::make_unique<SimulatedEngine>(std::move(options), clock);
}

}  // namespace penstock::engine
