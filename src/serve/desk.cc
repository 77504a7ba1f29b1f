#include "serve/desk.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "serve/embedding.h"
#include "serve/generation.h"
#include "serve/trace_context.h"
#include "text/constraint_limits.h"

namespace penstock::serve {
namespace {

/// From that size on, a request leaves something behind that is worth giving back.
constexpr std::size_t kLargeBodyBytes = 64 * 1024;

std::int64_t unix_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

engine::Sampling sampling_of(const api::GenerationParams& p) {
  engine::Sampling s;
  if (p.temperature) s.temperature = *p.temperature;
  if (p.top_p) s.top_p = *p.top_p;
  if (p.min_p) s.min_p = *p.min_p;
  if (p.top_k) s.top_k = *p.top_k;
  if (p.frequency_penalty) s.frequency_penalty = *p.frequency_penalty;
  if (p.presence_penalty) s.presence_penalty = *p.presence_penalty;
  if (p.repetition_penalty) s.repetition_penalty = *p.repetition_penalty;
  s.seed = p.seed;
  s.logit_bias = p.logit_bias;
  return s;
}

/// Whom a request counts for where tenants share a worker's queue: whose key it came with; without
/// keys, whom it says it is for. 0: nobody in particular.
std::uint64_t tenant_of(const net::HttpRequest& request, const api::GenerationParams& p,
                        const ServiceOptions& options) {
  std::string_view name = request.header("authorization");
  if (options.api_keys.empty()) {
    name = request.header("x-gateway-inference-fairness-id");  // llm-d's
    if (name.empty()) name = p.user;
  }
  return name.empty() ? 0 : std::hash<std::string_view>{}(name);
}

engine::GenerateRequest request_of(const api::GenerationParams& p, std::uint64_t tenant,
                                   std::vector<Token> prompt, std::uint32_t max_tokens) {
  engine::GenerateRequest r;
  r.prompt = std::move(prompt);
  r.cache_salt = p.cache_salt;
  r.sampling = sampling_of(p);
  r.stop_token_ids = p.stop_token_ids;
  r.ignore_eos = p.ignore_eos;
  r.max_tokens = max_tokens;
  r.min_tokens = p.min_tokens;
  r.top_logprobs = p.top_logprobs;
  r.priority = p.priority;
  r.tenant = tenant;
  return r;
}

/// A tool's call binds the answer, and so does a schema or a grammar (api/ takes one of the two).
Result<void> check_one_constraint(const api::ChatRequest& r, bool calls_tools) {
  const bool has_schema = r.response_format.kind != api::ResponseFormat::Kind::kText;
  if (!calls_tools || (!has_schema && r.grammar.empty())) return {};
  return fail(Code::kUnprocessable,
              "tools cannot be combined with response_format or grammar: use tool_choice \"none\", "
              "or drop the format",
              has_schema ? "response_format" : "grammar");
}

/// Views into `r`, which must outlive the result.
text::Conversation conversation_of(const api::ChatRequest& r) {
  text::Conversation c;
  c.messages.reserve(r.messages.size());
  for (const api::ChatMessage& m : r.messages) {
    text::Message& made = c.messages.emplace_back();
    made = {.role = m.role,
            .content = m.content,
            .name = m.name,
            .reasoning = m.reasoning_content,
            .tool_calls = {},
            .tool_call_id = m.tool_call_id};
    for (const api::ToolCall& call : m.tool_calls) {
      made.tool_calls.push_back({call.id, call.name, call.arguments});
    }
  }
  using Mode = api::ToolChoice::Mode;
  if (r.tool_choice.mode != Mode::kNone) {
    for (const api::Tool& t : r.tools) {
      if (r.tool_choice.mode == Mode::kFunction && t.name != r.tool_choice.function) continue;
      c.tools.push_back({t.name, t.description, t.parameters});
    }
  }
  c.tool_mode = r.tool_choice.mode == Mode::kAuto   ? text::Conversation::ToolMode::kAuto
                : r.tool_choice.mode == Mode::kNone ? text::Conversation::ToolMode::kNone
                                                    : text::Conversation::ToolMode::kRequired;
  c.parallel_tool_calls = r.parallel_tool_calls && r.tool_choice.mode != Mode::kFunction;
  switch (r.response_format.kind) {
    case api::ResponseFormat::Kind::kText: break;
    case api::ResponseFormat::Kind::kJsonObject: c.json_schema = R"({"type":"object"})"; break;
    case api::ResponseFormat::Kind::kJsonSchema: c.json_schema = r.response_format.schema; break;
  }
  c.grammar = r.grammar;
  for (const auto& [name, json] : r.template_kwargs) c.template_kwargs.emplace_back(name, json);
  c.add_generation_prompt = r.add_generation_prompt;
  c.continue_final_message = r.continue_final_message;
  return c;
}

/// What chats and completions say alike. Takes the request's stops.
Generation::Plan plan_of(Generation::Kind kind, api::AnswerHead head, api::GenerationParams& r,
                         const net::HttpRequest& request, const RoutingWishes& wishes,
                         TimePoint arrived, const ServiceOptions& options) {
  return {.kind = kind,
          .head = std::move(head),
          .stream = r.stream,
          .include_usage = r.include_usage,
          .logprobs = r.top_logprobs.has_value(),
          .return_token_ids = r.return_token_ids,
          .stops = std::move(r.stop),
          .format = {},
          .arrived = arrived,
          .wishes = wishes,
          .choices = r.n,
          .kv_lease = options.kv_lease,
          .traceparent = std::string(traceparent_of(request))};
}

}  // namespace

Desk::Desk(Service& service, net::Loop& loop, std::size_t segment_bytes_max)
    : service_(service),
      loop_(loop),
      mailbox_(loop, [this](std::vector<engine::Output>& outputs) { hand_out(outputs); }),
      tokenizer_cache_(segment_bytes_max),
      random_(std::random_device{}()) {}

Desk::~Desk() = default;

void Desk::hand_out(std::vector<engine::Output>& outputs) {
  // What an answer needs was last touched a step ago and has left the CPU's caches since. Asked for
  // in one go, it comes while the next is looked up.
  receivers_.clear();
  for (const engine::Output& output : outputs) {
    const auto found = by_leg_.find(output.request);
    receivers_.push_back(found == by_leg_.end() ? nullptr : found->second);  // cancelled meanwhile
    if (receivers_.back() != nullptr) receivers_.back()->prefetch();
  }
  for (const Generation* receiver : receivers_) {
    if (receiver != nullptr) receiver->prefetch_choices();
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    Generation* const receiver = receivers_[i];  // which no take() ends
    if (receiver == nullptr) continue;
    if (!std::exchange(receiver->touched_, true)) touched_.push_back(receiver);
    receiver->take(outputs[i]);
  }
  // All is written before anything is sent: a send leaves little of our code in those caches.
  const TimePoint now = clock().now();
  for (std::size_t i = 0; i < touched_.size();) {
    if (touched_[i]->write(now)) ++i;  // else it has left the list by itself
  }
  while (!touched_.empty()) {
    Generation* generation = touched_.back();
    touched_.pop_back();
    generation->touched_ = false;
    generation->flush(now);
  }
}

void Desk::sweep() {
  const TimePoint now = clock().now();
  const std::vector<LiveRequest*> all(live_.begin(), live_.end());
  for (LiveRequest* request : all) request->sweep(now);
  if (!live_.empty()) return sweep_later();
  sweep_timer_.reset();
  // What long prompts left between the caches' blocks: 15 MiB after a burst of 240 kB prompts.
  if (!std::exchange(large_seen_, false)) return;
  std::vector<Token>().swap(encoded_);
  malloc_trim(0);
}

/// So often that no heartbeat comes late by more than half of its time.
void Desk::sweep_later() {
  constexpr Nanos kOften = std::chrono::milliseconds(50);
  constexpr Nanos kSeldom = std::chrono::seconds(1);
  sweep_timer_ =
      loop_.after(std::clamp(options().heartbeat / 2, kOften, kSeldom), [this] { sweep(); });
}

void Desk::shut_down(const Error& error) {
  const std::vector<LiveRequest*> all(live_.begin(), live_.end());
  for (LiveRequest* request : all) {
    metrics().cancelled("shutdown");
    request->fail_with(error);
  }
}

std::vector<Token> Desk::encode(const text::Tokenizer& tokenizer,
                                std::span<const text::Piece> pieces) {
  encoded_.clear();
  const text::TokenizerCache::Stats before = tokenizer_cache_.stats();
  tokenizer.encode(pieces, true, tokenizer_cache_, encoded_);
  metrics().looked_up(before, tokenizer_cache_.stats());
  return {encoded_.begin(), encoded_.end()};
}

void Desk::launch(net::Exchange& exchange, std::unique_ptr<LiveRequest> request) {
  if (std::string& body = exchange.request().body; body.size() >= kLargeBodyBytes) {
    large_seen_ = true;
    std::string().swap(body);  // all of it is in the request's state, however long that lasts
  }
  request->exchange_ = &exchange;
  exchange.own(std::move(request));
  if (sweep_timer_ == nullptr) sweep_later();
}

Result<void> Desk::check_model(std::string_view name, std::span<const std::string> unknown_fields,
                               const ServedModel& model) {
  if (!unknown_fields.empty()) {
    metrics().unknown_fields(unknown_fields.size());
    if (log::enabled(log::Level::kDebug)) {
      log::debug("request fields ignored, not known: {}", fmt::join(unknown_fields, ", "));
    }
  }
  if (model.answers_to(name)) return {};
  return fail(Code::kModelNotFound,
              fmt::format("the model \"{}\" is not served here; available: {}", name.substr(0, 60),
                          fmt::join(model.names(), ", ")),
              "model");
}

Result<void> Desk::check_fields(const api::GenerationParams& p, const ServedModel& model) {
  if (Result<void> fine = check_model(p.model, p.unknown_fields, model); !fine) return fine;
  if (model.info().embeds_only) {
    return fail(
        Code::kUnprocessable,
        fmt::format("the model \"{}\" makes embeddings only: ask /v1/embeddings", model.name()),
        "model");
  }
  for (const Token t : p.stop_token_ids) {
    if (!model.tokenizer().valid(t)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("stop_token_ids: {} is not in the vocabulary of {} tokens", t,
                              model.tokenizer().size()),
                  "stop_token_ids");
    }
  }
  for (const auto& [token, bias] : p.logit_bias) {
    if (!model.tokenizer().valid(token)) {
      return fail(Code::kInvalidArgument,
                  fmt::format("logit_bias: {} is not in the vocabulary of {} tokens", token,
                              model.tokenizer().size()),
                  "logit_bias");
    }
  }
  return {};
}

Result<void> check_tokens(std::span<const Token> tokens, const ServedModel& model,
                          std::string_view param) {
  for (const Token t : tokens) {
    if (model.tokenizer().valid(t)) continue;
    return fail(Code::kInvalidArgument,
                fmt::format("token id {} is not in the vocabulary of {} tokens", t,
                            model.tokenizer().size()),
                std::string(param));
  }
  return {};
}

/// Tokenizing costs time, and a text of so many bytes cannot fit whatever its tokens are.
Result<void> check_text_size(std::size_t bytes, const ServedModel& model, std::string_view param) {
  const std::size_t longest = model.tokenizer().token_bytes_max();
  const std::uint64_t context = model.info().context_tokens_max;
  if (bytes <= context * longest) return {};
  return fail(Code::kContextLength,
              fmt::format("{} bytes of text cannot fit in the {} tokens that this server holds for "
                          "prompt and answer together: shorten it, or start the server with a "
                          "larger --context",
                          bytes, context),
              std::string(param));
}

/// echo and return_token_ids show a prompt with each of its choices: `bytes` is what that repeats.
Result<void> check_repetition(std::size_t bytes) {
  constexpr std::size_t kRepeatedBytesMax = 16 << 20;
  if (bytes <= kRepeatedBytesMax) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("n: echo and return_token_ids would repeat the prompt in {} MiB of this "
                          "answer, and {} are allowed: ask for fewer choices, or without them",
                          bytes >> 20, kRepeatedBytesMax >> 20),
              "n");
}

constexpr std::size_t kTokenJsonBytes = 8;  // of a token id in an answer, with its comma

/// What the client may ask for at most, given its prompt; an Error when the prompt alone is too
/// long.
Result<std::uint32_t> tokens_to_answer(const api::GenerationParams& p, std::size_t prompt_tokens,
                                       const ServedModel& model, const ServiceOptions& options,
                                       std::string_view param) {
  const std::uint32_t context = model.info().context_tokens_max;
  if (prompt_tokens >= context) {
    return fail(
        Code::kContextLength,
        fmt::format("the prompt has {} tokens, and this server holds {} for prompt and answer "
                    "together: shorten it, or start the server with a larger --context",
                    prompt_tokens, context),
        std::string(param));
  }
  const auto room = static_cast<std::uint32_t>(context - prompt_tokens);
  std::uint32_t wanted = p.max_tokens.value_or(options.max_tokens_default);
  if (wanted == 0) wanted = room;
  return std::min(wanted, room);
}

namespace {

/// Many empty messages cost as much as few long ones: each is laid out, and is a token at least.
Result<void> check_sizes(const text::Conversation& c, const ServedModel& model) {
  const std::uint32_t context = model.info().context_tokens_max;
  if (c.messages.size() >= context) {
    return fail(Code::kContextLength,
                fmt::format("{} messages cannot fit in the {} tokens that this server holds for "
                            "prompt and answer together",
                            c.messages.size(), context),
                "messages");
  }
  std::size_t bytes = 0;
  for (const text::Message& m : c.messages) {
    bytes += m.content.size() + m.reasoning.size() + m.name.size();
    for (const text::ToolCallText& call : m.tool_calls) {
      bytes += call.name.size() + call.arguments.size();
    }
  }
  if (Result<void> fits = check_text_size(bytes, model, "messages"); !fits) return fits;
  for (const text::ToolText& tool : c.tools) {
    bytes += tool.name.size() + tool.description.size() + tool.parameters.size();
  }
  return check_text_size(bytes, model, "tools");
}

/// Each choice follows a grammar of its own, made of the same text.
Result<void> check_grammars(std::size_t choices, std::size_t gbnf_bytes) {
  constexpr std::size_t kGrammarsBytesMax = 4 << 20;
  if (choices <= 1 || choices * gbnf_bytes <= kGrammarsBytesMax) return {};
  return fail(Code::kInvalidArgument,
              fmt::format("n: {} choices that follow a grammar of {} KiB each; {} KiB together are "
                          "allowed: ask for fewer choices, or less to be enforced",
                          choices, gbnf_bytes >> 10, kGrammarsBytesMax >> 10),
              "n");
}

/// More choices than the workers could ever hold would be told to come back again and again.
Result<void> check_choices(std::size_t choices, std::string_view param, ServedModel& model) {
  if (choices <= 1) return {};
  const std::uint64_t most = model.dispatcher().requests_ever_max();
  if (most == 0 || choices <= most) return {};  // 0: nobody knows yet
  return fail(Code::kInvalidArgument,
              fmt::format("{}: {} choices in all, and the workers here take {} at once, those that "
                          "wait included: ask for fewer",
                          param, choices, most),
              std::string(param));
}

/// What of a chat request its grammar was made of.
std::string_view constraint_of(const api::ChatRequest& r, bool calls_tools) {
  if (calls_tools) return "tools";
  return r.grammar.empty() ? "response_format" : "grammar";
}

/// An engine knows nothing of the fields that a grammar came from.
Error named(Error error, std::string_view param) {
  if (error.code == Code::kUnprocessable && error.param.empty()) error.param = param;
  return error;
}

}  // namespace

Result<Permit> Desk::admit() {
  if (Permit permit = service_.admit()) return permit;
  return std::unexpected(
      Error{Code::kOverloaded,
            fmt::format("{} requests are in flight already", options().in_flight_max), "", 1});
}

/// The client that named the request itself is told that name; the answer's own name is in its
/// body.
api::AnswerHead Desk::head_of(net::Exchange& exchange, std::string_view prefix,
                              const ServedModel& model) {
  api::AnswerHead head{.id = fmt::format("{}-{:016x}", prefix, random_()),
                       .created = unix_seconds(),
                       .model = model.name(),
                       .fingerprint = service_.fingerprint()};
  net::HttpRequest& request = exchange.request();
  if (request.header("x-request-id") != request.id) request.id = head.id;
  return head;
}

Result<void> Desk::chat(net::Exchange& exchange, ServedModel& model) {
  const TimePoint arrived = clock().now();
  Result<api::ChatRequest> parsed = api::parse_chat_request(exchange.request().body);
  if (!parsed) return std::unexpected(parsed.error());
  api::ChatRequest& r = *parsed;
  if (Result<void> fine = check_fields(r, model); !fine) return fine;
  const Result<RoutingWishes> wishes = read_routing_wishes(exchange.request());
  if (!wishes) return std::unexpected(wishes.error());

  const text::Conversation conversation = conversation_of(r);
  const bool calls_tools = !conversation.tools.empty();
  if (Result<void> fine = check_one_constraint(r, calls_tools); !fine) return fine;
  if (Result<void> fits = check_sizes(conversation, model); !fits) return fits;
  if (Result<void> fits = check_choices(r.n, "n", model); !fits) return fits;
  if (Result<void> fits = check_grammars(r.n, r.grammar.size()); !fits) return fits;
  Result<Permit> permit = admit();
  if (!permit) return std::unexpected(permit.error());
  Result<text::RenderedPrompt> rendered =
      model.chat_template().render(conversation, template_cache_);
  if (!rendered) return std::unexpected(rendered.error());
  std::vector<Token> prompt = encode(model.tokenizer(), rendered->pieces);
  if (prompt.empty()) {
    return fail(Code::kInvalidArgument, "the conversation renders to an empty prompt", "messages");
  }
  if (Result<void> fits = check_grammars(r.n, rendered->grammar.gbnf.size()); !fits) return fits;
  const Result<std::uint32_t> max_tokens =
      tokens_to_answer(r, prompt.size(), model, options(), "messages");
  if (!max_tokens) return std::unexpected(max_tokens.error());
  if (r.stream && r.return_token_ids) {  // a whole answer shows the prompt once
    Result<void> fits = check_repetition((r.n - 1) * kTokenJsonBytes * prompt.size());
    if (!fits) return fits;
  }

  Generation::Plan plan = plan_of(Generation::Kind::kChat, head_of(exchange, "chatcmpl", model), r,
                                  exchange.request(), *wishes, arrived, options());
  plan.format = std::move(rendered->format);
  std::ranges::move(rendered->stops, std::back_inserter(plan.stops));
  auto generation = std::make_unique<Generation>(*this, model, std::move(*permit), std::move(plan));
  const text::AnswerGrammar grammar = std::move(rendered->grammar);
  const std::uint64_t tenant = tenant_of(exchange.request(), r, options());
  for (std::uint32_t k = 0; k < r.n; ++k) {
    const bool last = k + 1 == r.n;
    engine::GenerateRequest leg =
        request_of(r, tenant, last ? std::exchange(prompt, {}) : prompt, *max_tokens);
    leg.grammar = grammar;
    if (leg.sampling.seed) *leg.sampling.seed += k;
    if (Result<void> queued = generation->add_choice(std::move(leg), k == 0); !queued) {
      return std::unexpected(named(queued.error(), constraint_of(r, calls_tools)));
    }
  }
  launch(exchange, std::move(generation));
  return {};
}

Result<void> Desk::complete(net::Exchange& exchange, ServedModel& model) {
  const TimePoint arrived = clock().now();
  Result<api::CompletionRequest> parsed = api::parse_completion_request(exchange.request().body);
  if (!parsed) return std::unexpected(parsed.error());
  api::CompletionRequest& r = *parsed;
  if (Result<void> fine = check_fields(r, model); !fine) return fine;
  const Result<RoutingWishes> wishes = read_routing_wishes(exchange.request());
  if (!wishes) return std::unexpected(wishes.error());
  if (r.echo && r.top_logprobs) {
    return fail(Code::kUnprocessable,
                "logprobs: those of the prompt are not computed, so they cannot go with echo; "
                "ask for one of the two",
                "logprobs");
  }
  const std::size_t choices = r.n * r.prompts.size();
  if (Result<void> fits = check_choices(choices, r.n > 1 ? "n" : "prompt", model); !fits) {
    return fits;
  }
  if (Result<void> fits = check_grammars(choices, r.grammar.size()); !fits) return fits;
  // Once, and not for each choice.
  if (Result<void> fine = text::check_gbnf(r.grammar); !fine) return fine;

  Generation::Plan plan = plan_of(Generation::Kind::kCompletion, head_of(exchange, "cmpl", model),
                                  r, exchange.request(), *wishes, arrived, options());
  Result<Permit> permit = admit();
  if (!permit) return std::unexpected(permit.error());
  auto generation = std::make_unique<Generation>(*this, model, std::move(*permit), std::move(plan));
  std::size_t repeated_bytes = 0;
  const std::uint64_t tenant = tenant_of(exchange.request(), r, options());
  for (std::size_t i = 0; i < r.prompts.size(); ++i) {
    std::vector<Token> prompt;
    std::string echo;
    const std::string param = r.prompts.size() == 1 ? "prompt" : fmt::format("prompt[{}]", i);
    if (auto* text = std::get_if<std::string>(&r.prompts[i])) {
      if (Result<void> fits = check_text_size(text->size(), model, param); !fits) return fits;
      // A raw prompt is the caller's own template: special tokens in it are meant.
      const std::vector<text::Piece> pieces = {{*text, true}};
      prompt = encode(model.tokenizer(), pieces);
      if (r.echo) echo = std::move(*text);
    } else {
      prompt = std::move(std::get<std::vector<Token>>(r.prompts[i]));
      if (Result<void> fine = check_tokens(prompt, model, param); !fine) return fine;
      if (r.echo) {
        for (const Token t : prompt) echo += model.tokenizer().bytes(t);
      }
    }
    const Result<std::uint32_t> max_tokens =
        tokens_to_answer(r, prompt.size(), model, options(), param);
    if (!max_tokens) return std::unexpected(max_tokens.error());
    const std::size_t ids_bytes = r.return_token_ids ? kTokenJsonBytes * prompt.size() : 0;
    repeated_bytes += (r.n - 1) * (echo.size() + ids_bytes);
    if (Result<void> fits = check_repetition(repeated_bytes); !fits) return fits;
    for (std::uint32_t k = 0; k < r.n; ++k) {
      engine::GenerateRequest leg = request_of(r, tenant, prompt, *max_tokens);
      leg.grammar.gbnf = r.grammar;
      leg.grammar.checked = true;
      if (leg.sampling.seed) *leg.sampling.seed += k;
      if (Result<void> queued = generation->add_choice(std::move(leg), k == 0, echo); !queued) {
        return std::unexpected(named(queued.error(), "grammar"));
      }
    }
  }
  launch(exchange, std::move(generation));
  return {};
}

Result<void> Desk::embed(net::Exchange& exchange, ServedModel& model) {
  const TimePoint arrived = clock().now();
  Result<api::EmbeddingRequest> parsed = api::parse_embedding_request(exchange.request().body);
  if (!parsed) return std::unexpected(parsed.error());
  api::EmbeddingRequest& r = *parsed;
  if (Result<void> fine = check_model(r.model, r.unknown_fields, model); !fine) return fine;
  Result<RoutingWishes> wishes = read_routing_wishes(exchange.request());
  if (!wishes) return std::unexpected(wishes.error());
  const std::uint32_t size = model.info().embedding_size;
  if (size == 0) {
    return fail(Code::kUnprocessable,
                fmt::format("the model \"{}\" does not make embeddings", model.name()), "model");
  }
  if (r.dimensions && *r.dimensions != size) {
    return fail(Code::kInvalidArgument, fmt::format("dimensions: this model makes {}", size),
                "dimensions");
  }
  Result<Permit> permit = admit();
  if (!permit) return std::unexpected(permit.error());
  std::vector<std::vector<Token>> inputs;
  for (auto& input : r.inputs) {
    std::vector<Token>& tokens = inputs.emplace_back();
    if (auto* text = std::get_if<std::string>(&input)) {
      if (Result<void> fits = check_text_size(text->size(), model, "input"); !fits) return fits;
      tokens = encode(model.tokenizer(), std::vector<text::Piece>{{*text, false}});
    } else {
      tokens = std::move(std::get<std::vector<Token>>(input));
      if (Result<void> fine = check_tokens(tokens, model, "input"); !fine) return fine;
    }
    if (tokens.size() > model.info().context_tokens_max) {
      return fail(Code::kContextLength,
                  fmt::format("the input has {} tokens, and this server takes {} at once",
                              tokens.size(), model.info().context_tokens_max),
                  "input");
    }
  }
  auto owned = std::make_unique<Embedding>(*this, model, std::move(*permit),
                                           Embedding::Plan{.arrived = arrived,
                                                           .base64 = r.base64,
                                                           .wishes = std::move(*wishes),
                                                           .inputs = std::move(inputs)});
  Embedding& embedding = *owned;
  launch(exchange, std::move(owned));
  embedding.ask();
  return {};
}

std::string Desk::describe() const {
  std::string out;
  const TimePoint now = service_.clock_.now();
  for (const LiveRequest* request : live_) {
    if (!out.empty()) out += ',';
    out += request->describe(now);
  }
  return out;
}

}  // namespace penstock::serve
