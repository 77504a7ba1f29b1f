#include "serve/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/cache_line.h"
#include "base/log.h"

namespace penstock::serve {
namespace {

std::string_view endpoint(Generation::Kind kind) {
  return kind == Generation::Kind::kChat ? "chat_completions" : "completions";
}

/// Of an output that waits to be shown, with what it points to.
std::size_t bytes_of(const engine::Output& output) {
  return sizeof output + output.top.capacity() * sizeof(engine::TopLogprob) +
         output.error.capacity();
}

std::uint32_t count_characters(std::string_view utf8) {
  return static_cast<std::uint32_t>(std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

Generation::Generation(Desk& desk, ServedModel& model, Permit permit, Plan plan)
    : LiveRequest(desk, endpoint(plan.kind), plan.head.id, plan.arrived, std::move(permit)),
      model_(model),
      plan_(std::move(plan)) {
  if (plan_.stream && plan_.kind == Kind::kChat)
    chat_writer_.emplace(plan_.head, plan_.include_usage);
  if (plan_.stream && plan_.kind == Kind::kCompletion) {
    completion_writer_.emplace(plan_.head, plan_.include_usage);
  }
}

Generation::~Generation() {
  for (Choice& c : choices_) release_leg(c);
  if (touched_) std::erase(desk_.touched_, this);
}

Result<void> Generation::add_choice(engine::GenerateRequest request, bool first_of_prompt,
                                    std::string echo) {
  Choice choice;
  choice.first_of_prompt = first_of_prompt;
  choice.stops = text::StopMatcher(plan_.stops);
  choice.text = std::move(echo);
  if (plan_.return_token_ids) {
    if (first_of_prompt) prompts_.push_back(request.prompt);
    choice.prompt = &prompts_.back();
  }
  choice.usage.prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
  Result<std::unique_ptr<text::OutputParser>> parser = text::make_output_parser(plan_.format);
  if (!parser) return std::unexpected(parser.error());
  choice.parser = std::move(*parser);

  Result<Assignment> place =
      this->place(request, first_of_prompt ? Part::kFirstOfPrompt : Part::kTwin);
  if (!place) return std::unexpected(place.error());
  choice.place = std::move(*place);
  request.sink = &desk_.sink();
  request.deadline = deadline_;
  request.arrived = arrived_;
  request.traceparent = plan_.traceparent;
  choices_.push_back(std::move(choice));
  Result<void> given = give(choices_.back(), std::move(request));
  if (given || give_to_another(choices_.back(), given.error().code)) return {};
  choices_.pop_back();
  return given;
}

void Generation::prefetch() const noexcept { prefetch_bytes(this, sizeof *this); }
void Generation::prefetch_choices() const noexcept {
  prefetch_bytes(choices_.data(), sizeof(Choice));
}

void Generation::take(engine::Output& output) {
  const auto found = std::ranges::find(choices_, output.request, &Choice::leg);
  if (found == choices_.end()) return;  // an output before it gave the choice to another worker
  Choice& choice = *found;
  if (choice.ended || error_) return;
  if (choice.answer) return prompt_ended(choice, output);
  note_progress(choice, output);
  const bool full = out_.size() >= kEventsBytesMax || (streaming_ && !exchange_->writable());
  if (!choice.held.empty() || full) {
    // The client reads slower than the model writes, or more came at once than should be made into
    // events at once. Tokens are small and as many as were asked for; formatted events are not, so
    // they are made when there is room.
    held_bytes_ += bytes_of(output);
    choice.held.push_back(std::move(output));
    if (held_bytes_ > kHeldBytesMax) {
      error_ = Error{Code::kCancelled, "the answer is not read", "", 0};
    }
    return;
  }
  process(choice, output);
}

/// The router hears of it at once, however slowly the client reads.
void Generation::note_progress(Choice& choice, const engine::Output& output) {
  const bool well = output.finish == engine::FinishReason::kStop ||
                    output.finish == engine::FinishReason::kLength;
  if (output.token || well) {
    choice.again.reset();
    note_admitted(choice, output.usage);
  }
  // Whom it is given to when its worker was lost has use for it as well.
  if (output.token || (output.finish && !choice.again)) release_kv(choice);
  if (output.token) {
    choice.place.first_token(output.usage);
    choice.place.generated(1);
  }
  if (well) choice.place.finished();
}

/// Of a prompt that is computed elsewhere than the answer, by who computes it.
void Generation::note_admitted(Choice& choice, const engine::Usage& usage) {
  if (std::exchange(choice.admitted, true)) return;
  desk_.metrics().queued(to_seconds(usage.queued));
}

void Generation::process(Choice& choice, engine::Output& output) {
  choice.usage.cached_tokens = choice.prompt_cached.value_or(output.usage.cached_tokens);
  if (output.token) {
    note_token(choice, output);
    characters_.clear();
    choice.detokenizer.add(model_.tokenizer().bytes(*output.token), characters_);
    take_text(choice, characters_);
    if (choice.ended) return;
  }
  if (!output.finish) {
    if (plan_.stream) write_content(choice);
    return;
  }
  switch (*output.finish) {
    case engine::FinishReason::kStop:
    case engine::FinishReason::kLength: {
      characters_.clear();
      choice.detokenizer.finish(characters_);
      if (!characters_.empty()) take_text(choice, characters_);
      if (!choice.ended) end_choice(choice, to_string(*output.finish));
      break;
    }
    case engine::FinishReason::kCancelled:
      choice.tried.push_back(choice.place.worker());
      if (!deadline_.passed(desk_.clock().now()) && give_to_another(choice, Code::kUnavailable)) {
        break;
      }
      error_ = deadline_.passed(desk_.clock().now())
                   ? late()
                   : Error{Code::kUnavailable, "the worker stopped before the answer was complete",
                           "", 1};
      break;
    case engine::FinishReason::kError: {
      const bool retryable =
          output.error_code == Code::kUnavailable || output.error_code == Code::kOverloaded;
      error_ = Error{output.error_code, output.error.empty() ? "the worker failed" : output.error,
                     "", retryable ? 1 : 0};
      choice.place.failed(error_->fault());
      choice.tried.push_back(choice.place.worker());
      if (give_to_another(choice, output.error_code)) error_.reset();
      break;
    }
  }
}

void Generation::note_token(Choice& choice, const engine::Output& output) {
  ++choice.completion_tokens;
  if (plan_.return_token_ids) choice.token_ids.push_back(*output.token);
  if (plan_.logprobs) choice.logprobs.push_back(logprob_of(output));
}

api::TokenLogprob Generation::logprob_of(const engine::Output& output) const {
  const auto named = [&](Token token, float logprob) {
    api::TokenLogprob entry;
    entry.bytes = model_.tokenizer().spelling(token);
    text::Detokenizer repair;
    repair.add(entry.bytes, entry.token);
    repair.finish(entry.token);
    entry.logprob = logprob;
    return entry;
  };
  api::TokenLogprob entry = named(*output.token, output.logprob);
  for (const engine::TopLogprob& t : output.top) entry.top.push_back(named(t.token, t.logprob));
  return entry;
}

void Generation::take_text(Choice& choice, std::string_view text) {
  certain_.clear();
  const bool stopped = choice.stops.add(text, certain_);
  if (choice.parser == nullptr) {
    choice.text += certain_;
  } else if (!certain_.empty()) {
    deltas_.clear();
    choice.parser->feed(certain_, deltas_);
    for (text::AnswerDelta& d : deltas_) take_delta(choice, d);
  }
  if (!stopped) return;
  choice.place.engine().abort(choice.leg, engine::CancelReason::kStopString);
  choice.place.finished();
  end_choice(choice, "stop");
}

void Generation::take_delta(Choice& choice, text::AnswerDelta& delta) {
  using Kind = text::AnswerDelta::Kind;
  switch (delta.kind) {
    case Kind::kContent:
      choice.text += delta.text;
      if (plan_.stream) write_content(choice);
      break;
    case Kind::kReasoning:
      if (plan_.stream) {
        write_open(choice);
        chat_writer_->reasoning(out_, static_cast<std::uint32_t>(&choice - choices_.data()),
                                delta.text);
      } else {
        choice.reasoning += delta.text;
      }
      break;
    case Kind::kToolStart: {
      // A parser may tell of a call again when it learns more of it: the first telling stands.
      if (delta.tool_index != choice.tool_calls.size()) break;
      api::ToolCall call;
      call.id = delta.tool_id.empty() ? fmt::format("call_{:016x}", desk_.random()) : delta.tool_id;
      call.name = delta.text;
      if (plan_.stream) {
        write_open(choice);
        chat_writer_->tool_call(out_, static_cast<std::uint32_t>(&choice - choices_.data()),
                                delta.tool_index, call.id, call.name, "");
      }
      choice.tool_calls.push_back(std::move(call));
      break;
    }
    case Kind::kToolArguments:
      if (delta.tool_index >= choice.tool_calls.size()) break;  // of a call without a name
      if (plan_.stream) {
        chat_writer_->tool_call(out_, static_cast<std::uint32_t>(&choice - choices_.data()),
                                delta.tool_index, "", "", delta.text);
      } else {
        choice.tool_calls[delta.tool_index].arguments += delta.text;
      }
      break;
  }
}

void Generation::end_choice(Choice& choice, std::string_view finish_reason) {
  certain_.clear();
  choice.stops.finish(certain_);
  if (choice.parser == nullptr) {
    choice.text += certain_;
  } else {
    deltas_.clear();
    if (!certain_.empty()) choice.parser->feed(certain_, deltas_);
    choice.parser->finish(deltas_);
    for (text::AnswerDelta& d : deltas_) take_delta(choice, d);
  }
  choice.ended = true;
  choice.finish_reason =
      finish_reason == "stop" && !choice.tool_calls.empty() ? "tool_calls" : finish_reason;
  release_leg(choice);
  if (!plan_.stream) return;
  write_content(choice);
  write_open(choice);
  const auto index = static_cast<std::uint32_t>(&choice - choices_.data());
  if (chat_writer_) {
    chat_writer_->finish(out_, index, choice.finish_reason);
  } else {
    completion_writer_->finish(out_, index, choice.finish_reason);
  }
}

/// A chat choice begins with its role.
void Generation::write_open(Choice& choice) {
  if (std::exchange(choice.opened, true) || !chat_writer_) return;
  chat_writer_->role(out_, static_cast<std::uint32_t>(&choice - choices_.data()), choice.prompt);
}

void Generation::write_content(Choice& choice) {
  if (choice.text.empty() && choice.logprobs.empty() && choice.token_ids.empty()) return;
  if (choice.text.empty() && !choice.ended) return;  // they go with the text they belong to
  const bool first = !choice.opened;
  write_open(choice);
  const auto index = static_cast<std::uint32_t>(&choice - choices_.data());
  const auto* logprobs = plan_.logprobs ? &choice.logprobs : nullptr;
  const auto* ids = plan_.return_token_ids ? &choice.token_ids : nullptr;
  if (chat_writer_) {
    chat_writer_->content(out_, index, choice.text, logprobs, ids);
  } else {
    completion_writer_->text(out_, index, choice.text, logprobs, choice.characters, ids,
                             first ? choice.prompt : nullptr);
    // Offsets count the tokens' own characters, as in a whole answer: the text may lag behind them.
    for (const api::TokenLogprob& entry : choice.logprobs) {
      choice.characters += count_characters(entry.bytes);
    }
  }
  choice.text.clear();
  choice.logprobs.clear();
  choice.token_ids.clear();
}

bool Generation::all_ended() const {
  return std::ranges::all_of(choices_, [](const Choice& c) { return c.ended; });
}

api::UsageCounts Generation::usage() const {
  api::UsageCounts counts;
  for (const Choice& c : choices_) {
    counts.completion_tokens += c.completion_tokens;
    const bool began = c.completion_tokens > 0 || c.ended;
    if (!c.first_of_prompt || !began) continue;
    counts.prompt_tokens += c.usage.prompt_tokens;
    counts.cached_tokens += c.usage.cached_tokens;
  }
  return counts;
}

void Generation::open_stream() {
  if (std::exchange(streaming_, true)) return;
  exchange_->start_stream("text/event-stream; charset=utf-8");
}

/// Each choice is a stream of its own: the time between two tokens is that between two of one.
void Generation::note_shown(TimePoint now) {
  for (Choice& c : choices_) {
    if (c.completion_tokens == c.tokens_shown) continue;
    const std::uint32_t fresh = c.completion_tokens - c.tokens_shown;
    if (c.tokens_shown > 0) {
      desk_.metrics().token_gap(to_seconds(now - c.last_token) / fresh, fresh);
    } else if (!std::exchange(began_, true)) {
      desk_.metrics().first_token(to_seconds(now - arrived_));
    }
    c.tokens_shown = c.completion_tokens;
    c.last_token = now;
  }
}

bool Generation::write(TimePoint now) {
  if (error_) {
    fail_with(*error_);
    return false;
  }
  note_shown(now);
  if (all_ended()) {
    complete();
    return false;
  }
  if (!plan_.stream || out_.empty()) return true;
  open_stream();
  exchange_->write(out_);
  out_.clear();
  last_write_ = now;
  written_ = true;
  return true;
}

void Generation::flush(TimePoint now) {
  do {
    if (std::exchange(written_, false)) exchange_->flush();
  } while (process_held() && write(now));
}

void Generation::complete() {
  ended(200);
  const api::UsageCounts counts = usage();
  if (plan_.stream) {
    if (plan_.include_usage && chat_writer_) chat_writer_->usage(out_, counts);
    if (plan_.include_usage && completion_writer_) completion_writer_->usage(out_, counts);
    api::ChatStreamWriter::done(out_);
    open_stream();
    exchange_->write(out_);
    return exchange_->finish();  // destroys this
  }
  std::string body;
  if (plan_.kind == Kind::kChat) {
    std::vector<api::ChatChoice> choices;
    for (Choice& c : choices_) {
      api::ChatChoice& made = choices.emplace_back();
      made.index = static_cast<std::uint32_t>(choices.size() - 1);
      made.content = std::move(c.text);
      made.reasoning_content = std::move(c.reasoning);
      made.tool_calls = std::move(c.tool_calls);
      made.finish_reason = c.finish_reason;
      if (plan_.logprobs) made.logprobs = std::move(c.logprobs);
      made.token_ids = std::move(c.token_ids);
    }
    body = api::chat_answer(plan_.head, choices, counts, choices_.front().prompt);
  } else {
    std::vector<api::CompletionChoice> choices;
    for (Choice& c : choices_) {
      api::CompletionChoice& made = choices.emplace_back();
      made.index = static_cast<std::uint32_t>(choices.size() - 1);
      made.text = std::move(c.text);
      made.finish_reason = c.finish_reason;
      if (plan_.logprobs) made.logprobs = std::move(c.logprobs);
      made.token_ids = std::move(c.token_ids);
      made.prompt_token_ids = c.prompt;
    }
    body = api::completion_answer(plan_.head, choices, counts);
  }
  exchange_->respond(200, "application/json", body);  // destroys this
}

void Generation::send(const Error& error) {
  if (!streaming_) return LiveRequest::send(error);
  // After the head an error can only be an event. No [DONE] follows: the answer is not complete.
  api::ChatStreamWriter::error(out_, error);
  exchange_->write(out_);
  exchange_->finish();
}

bool Generation::sweep(TimePoint now) {
  if (!LiveRequest::sweep(now)) return false;
  leave_hanging_workers();
  if (!plan_.stream) return true;
  const TimePoint last = std::max(last_write_, arrived_);
  if (now - last < desk_.options().heartbeat || (streaming_ && !exchange_->writable())) return true;
  open_stream();
  out_.clear();
  api::ChatStreamWriter::heartbeat(out_);
  exchange_->write(out_);
  exchange_->flush();
  out_.clear();
  last_write_ = now;
  return true;
}

void Generation::on_writable() {
  const TimePoint now = desk_.clock().now();
  if (process_held() && write(now)) flush(now);
}

/// Makes events of held tokens while there is room for them; false: none is held, or none is made.
bool Generation::process_held() {
  const bool holds = std::ranges::any_of(choices_, [](const Choice& c) { return !c.held.empty(); });
  if (!holds || (streaming_ && !exchange_->writable())) return false;
  for (Choice& c : choices_) {
    while (!c.held.empty() && !error_ && out_.size() < kEventsBytesMax) {
      engine::Output output = std::move(c.held.front());
      c.held.pop_front();
      held_bytes_ -= bytes_of(output);
      if (!c.ended) process(c, output);
    }
  }
  return true;
}

std::string Generation::describe(TimePoint now) const {
  std::uint32_t tokens = 0;
  std::size_t held = 0;
  for (const Choice& c : choices_) {
    tokens += c.completion_tokens;
    held += c.held.size();
  }
  return fmt::format(
      R"({{"id":"{}","endpoint":"{}","stream":{},"age_ms":{:.0f},"choices":{},"prompt_tokens":{},)"
      R"("completion_tokens":{},"state":"{}","held_tokens":{},"unsent_bytes":{}}})",
      id_, endpoint_, plan_.stream, to_ms(now - arrived_), choices_.size(),
      choices_.empty() ? 0 : choices_.front().usage.prompt_tokens, tokens,
      tokens == 0 ? "waiting" : "generating", held, exchange_->unsent_bytes());
}

}  // namespace penstock::serve
