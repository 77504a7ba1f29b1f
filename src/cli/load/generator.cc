#include "cli/load/generator.h"

#include <algorithm>
#include <utility>

#include "cli/load/request_body.h"

namespace penstock::cli::load {
namespace {

/// Between two looks at the sockets. When behind, answers must still be read at their time.
constexpr int kStartsATurn = 32;

constexpr auto kRelaxed = std::memory_order_relaxed;

}  // namespace

/// One session: its turns one after the other, each a call.
class Generator::Conversation final : public net::HttpCallListener {
 public:
  Conversation(Generator& owner, const Pacer::Start& start, std::size_t place)
      : place(place), owner_(owner), context_(owner.context_), start_(start) {}

  /// Sends the next turn, unless the run's budget is spent (false).
  bool send(TimePoint intended);
  /// Records the turn under way as cut off. The conversation is to be destroyed then.
  void cut_off();

  void on_headers(int status) override { reader_->on_status(status); }
  void on_body(std::string_view bytes) override;
  void on_done(Result<void> outcome) override { finish(outcome); }

  std::size_t place;  // in the owner's conversations_

 private:
  [[nodiscard]] std::uint32_t max_tokens() const;
  [[nodiscard]] net::HttpCall make_call(TimePoint deadline) const;
  void on_content(std::size_t events, TimePoint now);
  void finish(const Result<void>& transport);  // `this` may be gone when it returns
  void record(const AnswerReader::Verdict& verdict);

  Generator& owner_;
  RunContext& context_;
  const Pacer::Start start_;
  std::uint32_t turn_ = 0;  // the next one
  std::string history_;
  RequestRecord record_;
  std::optional<AnswerReader> reader_;
  std::unique_ptr<net::HttpCallHandle> handle_;
};

std::uint32_t Generator::Conversation::max_tokens() const {
  const std::uint32_t of_source = context_.prompts.output_tokens(start_.session);
  return of_source != 0 ? of_source : context_.options.request.max_tokens;
}

net::HttpCall Generator::Conversation::make_call(TimePoint deadline) const {
  const LoadOptions& options = context_.options;
  net::HttpCall call;
  call.path = options.server.path;
  call.path += path_of(options.request.endpoint);
  call.body = request_body(options.request, history_, max_tokens());
  call.headers.emplace_back("Content-Type", "application/json");
  if (!options.request.api_key.empty()) {
    call.headers.emplace_back("Authorization", "Bearer " + options.request.api_key);
  }
  call.deadline = Deadline(deadline);
  return call;
}

bool Generator::Conversation::send(TimePoint intended) {
  const LoadOptions& options = context_.options;
  const bool measured = context_.window.measures(intended);
  if (measured && !context_.budget.take()) return false;
  record_ = {.intended = intended, .first = TimePoint::min()};
  append_turn(history_, options.request.endpoint, context_.prompts.turn(start_.session, turn_));
  ++turn_;
  reader_.emplace(owner_.parser_, options.request.endpoint, options.request.stream,
                  turn_ < options.turns,
                  Usage{.prompt_tokens = history_.size(), .output_tokens = max_tokens()});
  context_.live.begun.fetch_add(1, kRelaxed);
  if (measured) context_.live.measured.fetch_add(1, kRelaxed);
  net::HttpCall call = make_call(intended + options.timeout);
  const bool waited = turn_ == 1 && start_.waited_for_slot;
  owner_.statistics_.on_send(intended, context_.clock.now(), waited);
  handle_ = owner_.client_->call(std::move(call), *this);
  return true;
}

void Generator::Conversation::on_body(std::string_view bytes) {
  const TimePoint now = context_.clock.now();
  const bool was_complete = reader_->complete();
  const std::size_t events = reader_->on_body(bytes);
  if (events > 0) on_content(events, now);
  if (!was_complete && reader_->complete()) record_.end = now;
  if (reader_->broken()) finish({});
}

void Generator::Conversation::on_content(std::size_t events, TimePoint now) {
  LiveCounters& live = context_.live;
  std::size_t gaps = events;
  if (!record_.has_first()) {
    record_.first = record_.last = now;
    live.ttft_count.fetch_add(1, kRelaxed);
    live.ttft_sum_ns.fetch_add((now - record_.intended).count(), kRelaxed);
    --gaps;
  }
  // Events that came together: the first ended the wait, the others had none.
  for (; gaps > 0; --gaps) {
    owner_.statistics_.on_gap(record_.intended, now - std::exchange(record_.last, now));
  }
  record_.events += events;
  if (owner_.statistics_.in_window(now)) record_.events_in_window += events;
  live.content_events.fetch_add(events, kRelaxed);
}

void Generator::Conversation::record(const AnswerReader::Verdict& verdict) {
  if (record_.end == TimePoint{}) record_.end = context_.clock.now();
  record_.outcome = verdict.outcome;
  record_.message = verdict.message;
  record_.status = reader_->status();
  record_.usage = reader_->usage();
  owner_.record(record_);
}

void Generator::Conversation::finish(const Result<void>& transport) {
  const AnswerReader::Verdict verdict = reader_->judge(transport);
  const bool ok = verdict.outcome == Outcome::kOk;
  record(verdict);
  const TimePoint now = context_.clock.now();
  const bool goes_on =
      ok && turn_ < context_.options.turns && !owner_.stopping_ && now < context_.window.until;
  if (goes_on) {
    append_answer(history_, context_.options.request.endpoint, reader_->text());
    if (send(now)) return;
  }
  owner_.end(*this, !ok);
}

void Generator::Conversation::cut_off() { record({.outcome = Outcome::kUnfinished}); }

Generator::Generator(RunContext& context, std::unique_ptr<Pacer> pacer, net::Loop& loop,
                     std::move_only_function<void()> on_done)
    : context_(context),
      pacer_(std::move(pacer)),
      loop_(loop),
      on_done_(std::move(on_done)),
      client_(net::make_http_client(
          loop, context.options.server,
          std::max(context.options.concurrency, context.options.in_flight_max))),
      statistics_(context.window, context.options.slo) {}

Generator::~Generator() = default;

void Generator::start() { pump(); }

void Generator::stop() {
  stopping_ = true;
  pacer_->close();
  timer_.reset();
  for (const auto& conversation : std::exchange(conversations_, {})) conversation->cut_off();
  check_done();
}

void Generator::pump() {
  timer_.reset();
  for (int i = 0; i < kStartsATurn; ++i) {
    const std::optional<Pacer::Start> start = pacer_->next(context_.clock.now());
    if (!start) {
      if (const std::optional<TimePoint> at = pacer_->wake_at()) wait_for(*at);
      check_done();
      return;
    }
    begin(*start);
  }
  wait_for(context_.clock.now());
}

void Generator::wait_for(TimePoint at) {
  timer_ = loop_.after(std::max(at - context_.clock.now(), Nanos::zero()), [this] { pump(); });
}

void Generator::begin(const Pacer::Start& start) {
  const TimePoint now = context_.clock.now();
  if (now - start.intended >= context_.options.timeout) {
    // It would only make the wait of those behind it longer.
    pacer_->slot_free(now, false);
    if (context_.window.measures(start.intended) && !context_.budget.take()) {
      pacer_->close();
      return;
    }
    context_.live.begun.fetch_add(1, kRelaxed);
    record({.intended = start.intended,
            .first = TimePoint::min(),
            .end = now,
            .outcome = Outcome::kTimeout,
            .message = "never sent: too many others were in flight for all of its time"});
    return;
  }
  conversations_.push_back(std::make_unique<Conversation>(*this, start, conversations_.size()));
  if (conversations_.back()->send(start.intended)) return;
  conversations_.pop_back();
  pacer_->slot_free(now, false);
  pacer_->close();  // the budget is spent
}

void Generator::end(Conversation& conversation, bool failed) {
  const std::size_t place = conversation.place;
  std::swap(conversations_[place], conversations_.back());
  conversations_[place]->place = place;
  conversations_.pop_back();
  pacer_->slot_free(context_.clock.now(), failed);
  pump();
}

void Generator::record(const RequestRecord& request) {
  statistics_.on_end(request);
  context_.live.ended.fetch_add(1, kRelaxed);
  const bool failed = request.outcome != Outcome::kOk && request.outcome != Outcome::kUnfinished;
  if (failed) context_.live.failed.fetch_add(1, kRelaxed);
}

void Generator::check_done() {
  if (!pacer_->closed() || !conversations_.empty() || !on_done_) return;
  std::exchange(on_done_, nullptr)();
}

}  // namespace penstock::cli::load
