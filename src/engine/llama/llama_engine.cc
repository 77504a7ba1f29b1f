#include "engine/llama/llama_engine.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <limits>
#include <list>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "engine/kv_event_log.h"
#include "engine/llama/batch_shape.h"
#include "engine/llama/context.h"
#include "engine/llama/embedding_queue.h"
#include "engine/llama/outbox.h"
#include "engine/llama/prefix_cache.h"
#include "engine/llama/request_check.h"
#include "engine/llama/sampler.h"
#include "engine/llama/sequence.h"
#include "engine/llama/shared_store.h"
#include "engine/request_inbox.h"
#include "engine/tenant_shares.h"

namespace penstock::engine {
namespace llama {
namespace {

class LlamaEngine final : public Engine {
 public:
  LlamaEngine(std::shared_ptr<const text::ModelFile> model, const LlamaOptions& options,
              const Clock& clock, std::unique_ptr<Context> context, tiers::Store* store);
  ~LlamaEngine() override;

  const EngineInfo& info() const override { return info_; }
  Result<void> generate(GenerateRequest request) override;
  void abort(RequestId id, CancelReason reason) override { inbox_.abort(id, reason); }
  Result<void> embed(EmbedRequest request, EmbedDone done) override;
  Result<void> clear_cache() override;
  LoadReport load() const override;
  tiers::LoadChoice foresee_load(std::span<const tiers::Key> keys,
                                 std::size_t have) const override {
    return cache_.foresee_load(keys, have);
  }
  TierState tier_state() const override { return cache_.tier_state(); }
  const kv::EventSource* kv_events() const override { return &events_; }
  bool announces_changes() const override { return true; }

 private:
  using SequencePtr = std::unique_ptr<Sequence>;

  // The compute thread's life, in the order of a step.
  void run();
  bool take_inbox();  // false: stop
  void cancel(RequestId id);
  void end_expired();
  void admit();
  void begin_pass();
  std::uint32_t compute_prompts();  // tokens
  bool decode();                    // false: nothing was to be decoded
  void end_pass(std::uint32_t prefill_tokens, bool decoded);
  void publish(std::span<const RequestId> ended);
  void settle();

  [[nodiscard]] std::list<SequencePtr>::iterator next_to_start();
  void start(Sequence& sequence);
  void count_prompt(const Sequence& sequence);
  void restore(Sequence& sequence);
  void hand_over(Sequence& sequence);
  void take_fetched();
  void wait_for_fetch();
  [[nodiscard]] Sequence* twin_of(const Sequence& waiting);
  void compute_part(Sequence& sequence, std::uint32_t budget);
  void decode_together(std::span<Sequence*> group);
  void draw(Sequence& sequence, std::int32_t row);
  void publish(Sequence& sequence);
  void finish(Sequence& sequence, FinishReason reason, std::string error = {});
  [[nodiscard]] bool any_decoding() const;
  [[nodiscard]] std::uint32_t prompt_budget(bool others_decode) const;
  [[nodiscard]] std::uint32_t active_blocks() const;
  [[nodiscard]] std::uint32_t active_blocks_max() const;

  const std::shared_ptr<const text::ModelFile> model_;
  const LlamaOptions options_;
  const Clock& clock_;
  const std::unique_ptr<Context> context_;
  EngineInfo info_;
  KvEventLog events_{KvEventLog::kEventsMax, options_.kv_event_tokens, &change_};

  RequestInbox<SequencePtr> inbox_;
  mutable std::mutex load_mutex_;
  LoadReport load_;  // as of the last publish()

  // The compute thread's own.
  PrefixCache cache_;
  std::list<SequencePtr> waiting_;    // in order of arrival
  TenantShares shares_;               // of all that wait or run
  std::vector<SequencePtr> running_;  // in the order they started
  std::vector<std::uint32_t> free_streams_;
  EmbeddingQueue embeddings_{context_->embedder()};
  InboxBatch<SequencePtr> batch_;
  std::vector<RequestId> ended_;  // since the last settle()
  Outbox outbox_;
  LoadReport counts_;
  PassTimer passes_;
  double row_ms_ = to_ms(context_->row_cost());  // measured cost of a prompt row, smoothed
  double decode_step_ms_ = 0;                    // measured cost of the last decode round

  std::thread thread_;
};

LlamaEngine::LlamaEngine(std::shared_ptr<const text::ModelFile> model, const LlamaOptions& options,
                         const Clock& clock, std::unique_ptr<Context> context, tiers::Store* store)
    : model_(std::move(model)),
      options_(options),
      clock_(clock),
      context_(std::move(context)),
      inbox_({.sequences_max = options.sequences_max, .queue_max = options.queue_max}),
      cache_(*context_, options, events_, store, options.exchange.get(), clock) {
  info_ = {.model = model_->fingerprint(),
           .kv_compatibility_key = cache_.compatibility(),
           .block_tokens = options.block_tokens,
           .computed_tokens_min = options.exact ? kTiledRows : 1,
           .context_tokens_max = context_->context_tokens(),
           .sequences_max = options.sequences_max,
           .queue_max = options.queue_max,
           .kv_blocks_max = cache_.pool().blocks_max(),
           .vocabulary_size = static_cast<std::uint32_t>(
               llama_vocab_n_tokens(llama_model_get_vocab(model_->handle()))),
           .hands_kv_over = cache_.hands_over(),
           .embeds_only = !context_->generates(),
           .kv_tiers_key = std::string(cache_.tiers_key())};
  if (context_->embedder() != nullptr) info_.embedding_size = context_->embedder()->size();
  for (std::uint32_t s = options.sequences_max; s > 0; --s) free_streams_.push_back(s - 1);
  thread_ = std::thread([this] { run(); });
}

LlamaEngine::~LlamaEngine() {
  inbox_.close();
  thread_.join();
}

Result<void> LlamaEngine::generate(GenerateRequest request) {
  if (Result<void> fine = check(request, info_); !fine) return fine;
  Result<std::unique_ptr<Sampler>> sampler = Sampler::make(*model_, request);
  if (!sampler) return std::unexpected(sampler.error());
  const kv::BlockHash root = kv::chain_root(info_.model, "", request.cache_salt);
  const RequestId id = request.id;
  return inbox_.submit(id,
                       std::make_unique<Sequence>(std::move(request), std::move(*sampler), root));
}

Result<void> LlamaEngine::embed(EmbedRequest request, EmbedDone done) {
  if (Result<void> fine = check(request, info_); !fine) return fine;
  return inbox_.submit(std::move(request), std::move(done));
}

Result<void> LlamaEngine::clear_cache() {
  if (info_.kv_blocks_max == 0) return Engine::clear_cache();
  inbox_.clear_cache();
  return {};
}

LoadReport LlamaEngine::load() const {
  const std::lock_guard lock(load_mutex_);
  LoadReport report = load_;
  report.in_inbox = inbox_.unreported();
  report.waiting += report.in_inbox;
  return report;
}

void LlamaEngine::run() {
  publish({});
  while (take_inbox()) {
    end_expired();
    admit();
    take_fetched();
    begin_pass();
    const std::uint32_t prefill_tokens = compute_prompts();
    settle();  // a first token does not wait for the others' next one
    const bool decoded = decode();
    end_pass(prefill_tokens, decoded);
    if (prefill_tokens == 0 && !decoded) wait_for_fetch();
    // As much as of a prompt, so that those who decode wait no longer for it.
    embeddings_.step(clock_.now(), prompt_budget(any_decoding()));
    settle();
    if (running_.empty()) outbox_.forget_sinks();
  }
  for (const SequencePtr& s : running_) finish(*s, FinishReason::kCancelled);
  for (const SequencePtr& s : waiting_) finish(*s, FinishReason::kCancelled);
  embeddings_.end_all({Code::kUnavailable, "the engine is stopping", "", 0});
  settle();
}

bool LlamaEngine::take_inbox() {
  const bool idle = running_.empty() && waiting_.empty() && embeddings_.empty();
  const bool open = idle ? inbox_.wait(batch_, cache_.until_sweep()) : inbox_.take(batch_);
  for (SequencePtr& s : batch_.requests) {
    shares_.came(s->request.tenant);
    waiting_.push_back(std::move(s));
  }
  for (const Abort& abort : batch_.aborts) cancel(abort.id);
  cache_.sweep(ended_);
  if (batch_.clear_cache) cache_.clear();
  embeddings_.add(batch_.embeds);
  counts_.accepted += batch_.requests.size();
  batch_.clear();
  return open;
}

void LlamaEngine::cancel(RequestId id) {
  const auto is_it = [&](const SequencePtr& s) {
    return s->request.id == id && s->request.sink != nullptr;
  };
  if (const auto r = std::ranges::find_if(running_, is_it); r != running_.end()) {
    finish(**r, FinishReason::kCancelled);
  } else if (const auto w = std::ranges::find_if(waiting_, is_it); w != waiting_.end()) {
    finish(**w, FinishReason::kCancelled);
  } else {
    cache_.end_lease(id);
  }
}

void LlamaEngine::end_expired() {
  const TimePoint now = clock_.now();
  const auto end = [&](auto& sequences) {
    for (const SequencePtr& s : sequences) {
      if (s->request.deadline.passed(now)) finish(*s, FinishReason::kCancelled);
    }
  };
  end(running_);
  end(waiting_);
  std::erase_if(running_, [](const SequencePtr& s) { return s->request.sink == nullptr; });
  std::erase_if(waiting_, [](const SequencePtr& s) { return s->request.sink == nullptr; });
}

/// Whoever of the waiting goes before all others: the highest priority, then the tenant with the
/// least service so far, then the first to come. end(): nobody can start now.
std::list<LlamaEngine::SequencePtr>::iterator LlamaEngine::next_to_start() {
  auto best = waiting_.end();
  for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
    const GenerateRequest& r = (*it)->request;
    if (r.sink == nullptr) continue;
    if (best != waiting_.end()) {
      const GenerateRequest& b = (*best)->request;
      if (r.priority < b.priority) continue;
      if (r.priority == b.priority && shares_.served(r.tenant) >= shares_.served(b.tenant)) {
        continue;
      }
    }
    // Cheaper to wait for what another computes than to compute it twice.
    if (twin_of(**it) == nullptr) best = it;
  }
  return best;
}

void LlamaEngine::admit() {
  while (!free_streams_.empty()) {
    const auto next = next_to_start();
    if (next == waiting_.end()) return;
    start(**next);
    running_.push_back(std::move(*next));
    waiting_.erase(next);
  }
}

/// A running sequence that is still computing blocks `waiting` begins with and the pool lacks.
Sequence* LlamaEngine::twin_of(const Sequence& waiting) {
  if (cache_.pool().blocks_max() == 0) return nullptr;
  for (const SequencePtr& s : running_) {
    if (s->request.sink == nullptr || s->decoding() || s->root != waiting.root) continue;
    const auto [a, b] = std::ranges::mismatch(s->request.prompt, waiting.request.prompt);
    const auto common = static_cast<std::uint32_t>(a - s->request.prompt.begin());
    const std::uint32_t usable =
        reusable_tokens(waiting.prompt_tokens(), common, options_.block_tokens, options_.exact);
    const std::uint32_t published =
        static_cast<std::uint32_t>(s->chain.size()) * options_.block_tokens;
    if (usable > published) {
      if (s->computed >= usable) publish(*s);  // it has them already: share now
      if (s->computed < usable) return s.get();
    }
  }
  return nullptr;
}

void LlamaEngine::start(Sequence& sequence) {
  sequence.queued = clock_.now() - sequence.request.arrived;
  if (sequence.request.prefill_only) {
    const std::uint32_t blocks = cache_.blocks_to_leave(sequence);
    sequence.prefill_end = blocks * options_.block_tokens;
    if (cache_.has_blocks_to_leave(sequence)) {
      sequence.computed = sequence.prefill_end;
      sequence.cached = cache_.reusable(sequence);
      count_prompt(sequence);
      return hand_over(sequence);
    }
    // It would be computed for nothing: whoever asked had better know now.
    if (!cache_.has_room_to_leave(sequence)) {
      sequence.cached =
          std::min(static_cast<std::uint32_t>(sequence.chain.size()) * options_.block_tokens,
                   cache_.reusable(sequence));
      return finish(sequence, FinishReason::kLength);
    }
  }
  sequence.stream = free_streams_.back();
  free_streams_.pop_back();
  if (!cache_.begin_fetch(sequence)) restore(sequence);
}

void LlamaEngine::restore(Sequence& sequence) {
  if (!cache_.restore(sequence)) ++counts_.sequence_errors;
  count_prompt(sequence);
}

void LlamaEngine::count_prompt(const Sequence& sequence) {
  counts_.prompt_tokens += sequence.prompt_tokens();
  counts_.cached_tokens += sequence.cached;
  shares_.serve(sequence.request.tenant, sequence.prompt_tokens() - sequence.cached);
}

/// The prompt of a prefill_only sequence is computed as far as others can use it.
void LlamaEngine::hand_over(Sequence& sequence) {
  cache_.leave(sequence);
  finish(sequence, FinishReason::kLength);
}

/// Lets in what has come from the store, a slice of it while others decode.
void LlamaEngine::take_fetched() {
  const Nanos slice = any_decoding() ? Nanos(std::chrono::milliseconds(options_.slice_ms))
                                     : Nanos(std::chrono::hours(1));
  const TimePoint end = clock_.now() + slice;
  for (const SequencePtr& s : running_) {
    if (s->fetching() && cache_.take_fetched(*s, end - clock_.now())) restore(*s);
  }
}

/// Nothing else is to be done: sleeps until it is there, and looks at the inbox now and then.
void LlamaEngine::wait_for_fetch() {
  const auto fetching = std::ranges::find_if(running_, [](const auto& s) { return s->fetching(); });
  if (fetching != running_.end()) cache_.wait_for_fetch(**fetching);
}

std::uint32_t LlamaEngine::prompt_budget(bool others_decode) const {
  if (!others_decode) return options_.step_tokens;
  // Others wait while prompts are computed: aim at a slice of time, but never so little of it that
  // prompts starve behind decoding.
  const double slice_ms = std::max<double>(options_.slice_ms, 3 * decode_step_ms_);
  const double rows = slice_ms / std::max(row_ms_, 1e-3);
  return static_cast<std::uint32_t>(
      std::clamp<double>(rows, kTiledRows, static_cast<double>(options_.step_tokens)));
}

bool LlamaEngine::any_decoding() const {
  return std::ranges::any_of(running_, [](const SequencePtr& s) { return s->decoding(); });
}

/// In blocks, though a stream's cells are no blocks: that is what the other workers count in.
std::uint32_t LlamaEngine::active_blocks() const {
  std::uint32_t blocks = 0;
  for (const SequencePtr& s : running_) {
    if (s->stream) blocks += (s->computed + options_.block_tokens - 1) / options_.block_tokens;
  }
  return blocks;
}

std::uint32_t LlamaEngine::active_blocks_max() const {
  const std::uint32_t each = (info_.context_tokens_max + options_.block_tokens - 1);
  return options_.sequences_max * (each / options_.block_tokens);
}

/// Tells what the step is going to compute, so that others can reckon with its end.
void LlamaEngine::begin_pass() {
  if (running_.empty()) return;
  PassWork work;
  std::uint32_t budget = prompt_budget(any_decoding());
  for (const SequencePtr& s : running_) {
    if (s->fetching()) continue;
    const std::uint32_t left = s->prompt_left();
    const std::uint32_t part = std::min(left, budget);
    work.prefill_tokens += part;
    budget -= part;
    // It draws a token when its prompt is done.
    work.decodes = work.decodes || (part == left && !s->request.prefill_only);
  }
  work.kv_use = static_cast<double>(active_blocks()) / active_blocks_max();
  passes_.begin(clock_.now(), work);
  publish({});
}

void LlamaEngine::end_pass(std::uint32_t prefill_tokens, bool decoded) {
  if (!passes_.running()) return;
  passes_.end(
      clock_.now(),
      {.prefill_tokens = prefill_tokens, .decodes = decoded, .kv_use = passes_.planned().kv_use});
}

std::uint32_t LlamaEngine::compute_prompts() {
  std::uint32_t budget = prompt_budget(any_decoding());
  std::uint32_t tokens = 0;
  for (const SequencePtr& s : running_) {
    while (s->request.sink != nullptr && !s->fetching() && !s->decoding() && budget > 0) {
      const std::uint32_t before = s->computed;
      compute_part(*s, budget);
      tokens += s->computed - before;
      budget -= std::min(budget, s->computed - before);
      if (s->computed == before) break;  // it failed and was ended
    }
    if (budget == 0) break;
  }
  return tokens;
}

void LlamaEngine::compute_part(Sequence& s, std::uint32_t budget) {
  std::uint32_t rows = next_rows(s.computed, s.prompt_tokens(), budget);
  if (s.request.prefill_only) rows = std::min(rows, whole_groups(s.prompt_left()));
  std::vector<Context::Row> batch;
  batch.reserve(rows);
  for (std::uint32_t i = 0; i < rows; ++i) {
    const std::uint32_t position = s.computed + i;
    batch.push_back({s.tokens[position], position, *s.stream, position + 1 == s.prompt_tokens()});
  }
  const TimePoint start = clock_.now();
  if (Result<void> computed = context_->compute(batch); !computed) {
    finish(s, FinishReason::kError, computed.error().message);
    return;
  }
  if (rows >= kTiledRows && s.settled == s.computed) s.settled += rows / kRowGroup * kRowGroup;
  s.computed += rows;
  ++counts_.steps;
  if (s.request.prefill_only) {
    if (s.prompt_left() == 0) {
      publish(s);
      hand_over(s);
    }
  } else if (s.decoding()) {
    draw(s, static_cast<std::int32_t>(rows) - 1);
    if (s.request.sink != nullptr) publish(s);
  }
  const double row_ms = to_ms(clock_.now() - start) / rows;
  row_ms_ = 0.7 * row_ms_ + 0.3 * row_ms;
  cache_.set_token_cost(Nanos(static_cast<std::int64_t>(row_ms_ * 1e6)));
}

bool LlamaEngine::decode() {
  std::vector<Sequence*> together;
  std::vector<Sequence*> alone;
  for (const SequencePtr& s : running_) {
    if (s->request.sink == nullptr || !s->decoding() || s->computed >= s->tokens.size()) continue;
    const bool shares = !options_.exact || (context_->rows_alike() &&
                                            may_share_step(s->computed, context_->threads()));
    (shares ? together : alone).push_back(s.get());
  }
  if (together.empty() && alone.empty()) return false;
  const TimePoint start = clock_.now();
  // Streams in a row are computed as one batch by llama.cpp; it wants them in order.
  std::ranges::sort(together, {}, [](const Sequence* s) { return *s->stream; });
  if (!together.empty()) decode_together(together);
  for (Sequence*& s : alone) decode_together({&s, 1});
  decode_step_ms_ = to_ms(clock_.now() - start);
  return true;
}

void LlamaEngine::decode_together(std::span<Sequence*> group) {
  std::vector<Context::Row> batch;
  for (const Sequence* s : group) {
    batch.push_back({s->tokens[s->computed], s->computed, *s->stream, true});
  }
  ++counts_.steps;
  if (Result<void> computed = context_->compute(batch); !computed) {
    for (Sequence* s : group) finish(*s, FinishReason::kError, computed.error().message);
    return;
  }
  for (std::size_t i = 0; i < group.size(); ++i) {
    ++group[i]->computed;
    draw(*group[i], static_cast<std::int32_t>(i));
  }
}

void LlamaEngine::draw(Sequence& s, std::int32_t row) {
  Result<Sampler::Drawn> drawn = s.sampler->draw(context_->handle(), row);
  if (!drawn) {
    finish(s, FinishReason::kError, drawn.error().message);
    return;
  }
  if (drawn->ends) {
    finish(s, FinishReason::kStop);
    return;
  }
  s.tokens.push_back(drawn->token);
  ++s.drawn;
  ++counts_.completion_tokens;
  shares_.serve(s.request.tenant, 1);
  outbox_.add(s.request.sink, {.request = s.request.id,
                               .token = drawn->token,
                               .logprob = drawn->logprob,
                               .top = std::move(drawn->top),
                               .usage = s.usage()});
  if (s.drawn >= s.request.max_tokens || s.tokens.size() >= info_.context_tokens_max) {
    finish(s, FinishReason::kLength);
  }
}

void LlamaEngine::publish(Sequence& s) {
  if (!cache_.publish(s)) ++counts_.sequence_errors;
}

void LlamaEngine::finish(Sequence& s, FinishReason reason, std::string error) {
  if (s.request.sink == nullptr) return;  // ended before
  if (reason == FinishReason::kError) ++counts_.sequence_errors;
  if (s.stream) {
    const bool complete = reason == FinishReason::kStop || reason == FinishReason::kLength;
    if (complete && !s.request.prefill_only) publish(s);
    context_->truncate(*s.stream, 0);
    free_streams_.push_back(*s.stream);
    std::ranges::sort(free_streams_,
                      std::greater<>{});  // the lowest next: streams in a row batch best
    s.stream.reset();
  }
  cache_.end_fetch(s);
  s.chain.clear();
  const bool leaves = s.ticket != nullptr;  // it lives on as a lease
  outbox_.add(s.request.sink, {.request = s.request.id,
                               .finish = reason,
                               .usage = s.usage(),
                               .kv = std::move(s.ticket),
                               .error = std::move(error)});
  s.request.sink = nullptr;  // ended; swept by end_expired()
  shares_.left(s.request.tenant);
  if (!leaves) ended_.push_back(s.request.id);
}

void LlamaEngine::publish(std::span<const RequestId> ended) {
  counts_.running = 0;
  counts_.waiting = 0;
  counts_.running_prefill_tokens = 0;
  for (const SequencePtr& s : running_) {
    if (s->request.sink == nullptr) continue;
    ++counts_.running;
    counts_.running_prefill_tokens += s->prompt_left();
  }
  counts_.waiting_prefill_tokens = counts_.running_prefill_tokens;
  for (const SequencePtr& s : waiting_) {
    if (s->request.sink == nullptr) continue;
    ++counts_.waiting;
    counts_.waiting_prefill_tokens += s->prompt_tokens();
  }
  counts_.kv_blocks_active = active_blocks();
  counts_.kv_blocks_active_max = active_blocks_max();
  const auto decoding =
      std::ranges::count_if(running_, [](const SequencePtr& s) { return s->decoding(); });
  counts_.pass_tokens_max = prompt_budget(decoding > 0) + static_cast<std::uint32_t>(decoding);
  cache_.write_to(counts_);
  passes_.write_to(counts_);
  ++counts_.generation;
  // Under one lock, so that no request is counted twice or not at all.
  const std::lock_guard lock(load_mutex_);
  load_ = counts_;
  inbox_.report(counts_.running, counts_.waiting, ended, embeddings_.size());
  change_.set();
}

/// What others may see of the step, before they hear of it.
void LlamaEngine::settle() {
  publish(ended_);
  ended_.clear();
  outbox_.deliver();
}

}  // namespace
}  // namespace llama

Result<std::unique_ptr<Engine>> make_llama_engine(std::shared_ptr<const text::ModelFile> model,
                                                  const LlamaOptions& options, const Clock& clock) {
  CHECK(model->has_weights());
  Result<std::unique_ptr<llama::Context>> context = llama::Context::make(model, options);
  if (!context) return std::unexpected(context.error());
  tiers::Store* store = nullptr;
  const llama::StateCodec* codec = (*context)->codec();
  if (options.store != nullptr && codec != nullptr) {
    const std::size_t block_bytes = codec->bytes_per_token() * options.block_tokens;
    if (block_bytes > std::numeric_limits<std::uint32_t>::max()) {
      return fail(Code::kUnprocessable,
                  "--block-tokens: a block is too large for --kv-disk or --kv-host-mib");
    }
    Result<tiers::Store*> opened = options.store->open(
        llama::PrefixCache::store_key(**context, options), static_cast<std::uint32_t>(block_bytes));
    if (!opened) return std::unexpected(opened.error());
    store = *opened;
  }
  return std::make_unique<llama::LlamaEngine>(std::move(model), options, clock, std::move(*context),
                                              store);
}

}  // namespace penstock::engine
