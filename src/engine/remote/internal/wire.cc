#include "engine/remote/internal/wire.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace penstock::engine::wire {
namespace {

/// Names how blocks are hashed (kv/block.h, kv/local_hash.h): sides that differ must not talk.
constexpr std::string_view kKvHash = "penstock-xxh3-1";

using Tokens = google::protobuf::RepeatedField<std::uint32_t>;

void write_tokens(std::span<const Token> tokens, Tokens& out) {
  out.Reserve(static_cast<int>(tokens.size()));
  for (const Token token : tokens) out.AddAlreadyReserved(static_cast<std::uint32_t>(token));
}

bool is_token(std::uint32_t token) {
  return token <= static_cast<std::uint32_t>(std::numeric_limits<Token>::max());
}

Result<void> read_tokens(const Tokens& in, std::vector<Token>& out) {
  if (!std::ranges::all_of(in, is_token)) return invalid("a token id is not one");
  out.assign(in.begin(), in.end());
  return {};
}

ps::Grammar::Trigger::Kind kind_of(text::AnswerGrammar::Trigger::Kind kind) {
  using Kind = text::AnswerGrammar::Trigger::Kind;
  switch (kind) {
    case Kind::kWord: return ps::Grammar::Trigger::WORD;
    case Kind::kPattern: return ps::Grammar::Trigger::PATTERN;
    case Kind::kPatternFull: return ps::Grammar::Trigger::PATTERN_FULL;
  }
  return ps::Grammar::Trigger::WORD;
}

text::AnswerGrammar::Trigger::Kind kind_of(ps::Grammar::Trigger::Kind kind) {
  using Kind = text::AnswerGrammar::Trigger::Kind;
  switch (kind) {
    case ps::Grammar::Trigger::PATTERN: return Kind::kPattern;
    case ps::Grammar::Trigger::PATTERN_FULL: return Kind::kPatternFull;
    default: return Kind::kWord;
  }
}

void write_grammar(const text::AnswerGrammar& grammar, ps::Grammar& out) {
  out.set_gbnf(grammar.gbnf);
  out.set_lazy(grammar.lazy);
  for (const auto& trigger : grammar.triggers) {
    ps::Grammar::Trigger& added = *out.add_triggers();
    added.set_kind(kind_of(trigger.kind));
    added.set_value(trigger.value);
  }
  for (const std::string& token : grammar.preserved_tokens) out.add_preserved_tokens(token);
  out.set_checked(grammar.checked);
  out.set_parses(grammar.parses);
  out.set_prefill(grammar.prefill);
}

text::AnswerGrammar read_grammar(const ps::Grammar& in) {
  text::AnswerGrammar grammar{.gbnf = in.gbnf(), .lazy = in.lazy(), .prefill = in.prefill()};
  for (const auto& trigger : in.triggers()) {
    grammar.triggers.push_back({.kind = kind_of(trigger.kind()), .value = trigger.value()});
  }
  grammar.preserved_tokens = {in.preserved_tokens().begin(), in.preserved_tokens().end()};
  grammar.checked = in.checked();
  grammar.parses = in.parses();
  return grammar;
}

void write_sampling(const Sampling& sampling, oe::SamplingParams& out) {
  out.set_temperature(sampling.temperature);
  out.set_top_p(sampling.top_p);
  out.set_top_k(sampling.top_k);
  out.set_min_p(sampling.min_p);
  out.set_frequency_penalty(sampling.frequency_penalty);
  out.set_presence_penalty(sampling.presence_penalty);
  out.set_repetition_penalty(sampling.repetition_penalty);
  if (sampling.seed) out.set_seed(*sampling.seed);
}

Result<void> read_sampling(const oe::SamplingParams& in, Sampling& out) {
  if (in.has_num_sequences() && in.num_sequences() != 1) {
    return invalid("num_sequences: a worker makes one sequence a request");
  }
  const auto take = [](bool given, double value, float& to) {
    if (given) to = static_cast<float>(value);
  };
  take(in.has_temperature(), in.temperature(), out.temperature);
  take(in.has_top_p(), in.top_p(), out.top_p);
  take(in.has_min_p(), in.min_p(), out.min_p);
  take(in.has_frequency_penalty(), in.frequency_penalty(), out.frequency_penalty);
  take(in.has_presence_penalty(), in.presence_penalty(), out.presence_penalty);
  take(in.has_repetition_penalty(), in.repetition_penalty(), out.repetition_penalty);
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_seed()) out.seed = static_cast<std::uint32_t>(in.seed());
  return {};
}

Result<void> read_stopping(const oe::StoppingOptions& in, GenerateRequest& out) {
  out.max_tokens = in.max_tokens();
  out.min_tokens = in.min_tokens();
  out.ignore_eos = in.ignore_eos();
  if (in.include_stop_in_output())
    return invalid("include_stop_in_output: stop tokens are not shown");
  for (const oe::StopCondition& stop : in.conditions()) {
    if (stop.condition_case() != oe::StopCondition::kStopTokenId ||
        !is_token(stop.stop_token_id())) {
      return invalid("stopping: a worker stops at token ids only");
    }
    out.stop_token_ids.push_back(static_cast<Token>(stop.stop_token_id()));
  }
  return {};
}

Result<void> read_guided(const oe::GuidedDecoding& in, GenerateRequest& out) {
  switch (in.guide_case()) {
    case oe::GuidedDecoding::kEbnfGrammar: out.grammar.gbnf = in.ebnf_grammar(); return {};
    case oe::GuidedDecoding::GUIDE_NOT_SET: return {};
    default: return fail(Code::kUnimplemented, "guided: a worker takes grammars (GBNF) only");
  }
}

constexpr std::int32_t kPenaltyLastNMax = 1 << 20;  // so many tokens are kept a request

Result<void> read_extras(const ps::GenerateExtras& in, GenerateRequest& out) {
  if (in.penalty_last_n() < -1 || in.penalty_last_n() > kPenaltyLastNMax) {
    return invalid(fmt::format("penalty_last_n: expected -1 to {}", kPenaltyLastNMax));
  }
  out.sampling.penalty_last_n = in.penalty_last_n();
  for (const ps::LogitBias& bias : in.logit_bias()) {
    if (!is_token(bias.token_id())) return invalid("logit_bias: a token id is not one");
    out.sampling.logit_bias.emplace_back(static_cast<Token>(bias.token_id()), bias.bias());
  }
  if (in.has_grammar()) out.grammar = read_grammar(in.grammar());
  out.tenant = in.tenant();
  out.prefill_only = in.prefill_only();
  if (in.kv_lease_ms() != 0) {
    constexpr std::uint64_t kLeaseMsMax = 3'600'000;
    out.kv_lease = std::chrono::milliseconds(std::min(in.kv_lease_ms(), kLeaseMsMax));
  }
  return {};
}

void write_usage(const Usage& usage, oe::Usage& out) {
  out.set_prompt_tokens(usage.prompt_tokens);
  out.set_completion_tokens(usage.completion_tokens);
  out.set_total_tokens(usage.prompt_tokens + usage.completion_tokens);
  out.set_cached_prompt_tokens(usage.cached_tokens);
  out.set_queued_ns(static_cast<std::uint64_t>(std::max(Nanos::rep{0}, usage.queued.count())));
}

Usage read_usage(const oe::Usage& in, Nanos waited) {
  constexpr std::uint64_t kQueuedNsMax = std::uint64_t{3600} * 1'000'000'000;
  return {
      .prompt_tokens = in.prompt_tokens(),
      .cached_tokens = in.cached_prompt_tokens(),
      .completion_tokens = in.completion_tokens(),
      .queued = waited + Nanos(static_cast<Nanos::rep>(std::min(in.queued_ns(), kQueuedNsMax)))};
}

void write_token(const Output& output, oe::TokenInfo& out) {
  out.set_token_id(static_cast<std::uint32_t>(*output.token));
  // The engine does not say whether it was asked for; 0 costs nothing and reads the same.
  if (output.logprob != 0) out.set_logprob(output.logprob);
  for (const TopLogprob& top : output.top) {
    oe::LogProb& added = *out.add_candidates();
    added.set_token_id(static_cast<std::uint32_t>(top.token));
    added.set_logprob(top.logprob);
  }
}

void write_end(const Output& output, oe::GenerateResponse& out) {
  if (output.kv != nullptr) {
    write(*output.kv, *out.mutable_prefill_ready()->mutable_kv_session());
  } else if (*output.finish == FinishReason::kError) {
    oe::EngineError& error = *out.mutable_error();
    error.set_code(error_code(output.error_code));
    error.set_message(output.error);
    error.set_retryable(output.error_code != Code::kInvalidArgument);
  } else {
    oe::GenerationFinished& finished = *out.mutable_finished();
    finished.set_output_index(0);
    switch (*output.finish) {
      case FinishReason::kStop: finished.set_reason(oe::FINISH_REASON_STOP); break;
      case FinishReason::kLength: finished.set_reason(oe::FINISH_REASON_LENGTH); break;
      default: finished.set_reason(oe::FINISH_REASON_CANCELLED);
    }
  }
  write_usage(output.usage, *out.mutable_usage());
}

Result<FinishReason> read_reason(oe::FinishReason reason) {
  switch (reason) {
    case oe::FINISH_REASON_STOP: return FinishReason::kStop;
    case oe::FINISH_REASON_LENGTH: return FinishReason::kLength;
    case oe::FINISH_REASON_CANCELLED: return FinishReason::kCancelled;
    default: return invalid("it ended for no known reason");
  }
}

void write_hash(const kv::BlockHash& hash, oe::KvBlockHash& out) {
  std::string& bytes = *out.mutable_value();
  for (const std::uint64_t half : {hash.high, hash.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) bytes += static_cast<char>(half >> shift & 0xFF);
  }
  out.set_encoding("bytes");
}

Result<kv::BlockHash> read_hash(const oe::KvBlockHash& in) {
  if (in.value().size() != 16) return invalid("a block's name is not 16 bytes long");
  kv::BlockHash hash;
  for (std::size_t i = 0; i < 16; ++i) {
    std::uint64_t& half = i < 8 ? hash.high : hash.low;
    half = half << 8 | static_cast<unsigned char>(in.value()[i]);
  }
  return hash;
}

}  // namespace

void write(const GenerateRequest& request, oe::GenerateRequest& out) {
  write_tokens(request.prompt, *out.mutable_token_ids()->mutable_ids());
  write_sampling(request.sampling, *out.mutable_sampling());
  oe::StoppingOptions& stopping = *out.mutable_stopping();
  stopping.set_max_tokens(request.max_tokens);
  stopping.set_min_tokens(request.min_tokens);
  stopping.set_ignore_eos(request.ignore_eos);
  for (const Token stop : request.stop_token_ids) {
    stopping.add_conditions()->set_stop_token_id(static_cast<std::uint32_t>(stop));
  }
  if (request.top_logprobs) {
    out.mutable_response()->set_return_output_logprobs(true);
    out.mutable_response()->mutable_output_candidates()->set_top_n(*request.top_logprobs);
  }
  if (!request.cache_salt.empty()) out.mutable_kv()->set_cache_salt(request.cache_salt);
  ps::GenerateExtras& extras = *out.mutable_penstock();
  extras.set_penalty_last_n(request.sampling.penalty_last_n);
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    ps::LogitBias& added = *extras.add_logit_bias();
    added.set_token_id(static_cast<std::uint32_t>(token));
    added.set_bias(bias);
  }
  if (!request.grammar.gbnf.empty()) write_grammar(request.grammar, *extras.mutable_grammar());
  extras.set_tenant(request.tenant);
  if (request.prefill_only) {
    extras.set_prefill_only(true);
    extras.set_kv_lease_ms(static_cast<std::uint64_t>(
        std::max<std::int64_t>(1, request.kv_lease.count() / 1'000'000)));
  }
  if (request.fetch) write(*request.fetch, *out.mutable_kv()->mutable_session());
}

Result<GenerateRequest> read(const oe::GenerateRequest& in) {
  GenerateRequest out;
  if (in.input_case() != oe::GenerateRequest::kTokenIds) {
    return invalid("input: a worker takes token_ids");
  }
  if (!in.lora_name().empty()) return fail(Code::kUnimplemented, "a worker has no adapters");
  Result<void> fine = read_tokens(in.token_ids().ids(), out.prompt);
  if (fine) fine = read_sampling(in.sampling(), out.sampling);
  if (fine) fine = read_stopping(in.stopping(), out);
  if (fine) fine = read_guided(in.guided(), out);
  if (fine && in.has_penstock()) fine = read_extras(in.penstock(), out);
  if (!fine) return std::unexpected(fine.error());
  if (in.kv().has_session()) {
    const auto blocks_max = static_cast<std::uint32_t>(out.prompt.size());  // of one token at least
    Result<KvTicket> ticket = read(in.kv().session(), blocks_max);
    if (!ticket) return std::unexpected(ticket.error());
    out.fetch = std::move(*ticket);
  }
  if (in.response().return_prompt_logprobs()) {
    return fail(Code::kUnimplemented, "a worker gives no logprobs of the prompt");
  }
  if (in.response().return_output_logprobs()) {
    out.top_logprobs = in.response().output_candidates().top_n();
  }
  out.cache_salt = in.kv().cache_salt();
  return out;
}

void write(std::span<const Output> outputs, std::vector<oe::GenerateResponse>& out) {
  oe::TokenOutput* tokens = nullptr;
  for (const Output& output : outputs) {
    if (output.token) {
      if (tokens == nullptr) {
        oe::GenerateResponse& response = out.emplace_back();
        tokens = response.mutable_token();
        tokens->set_output_index(0);
        write_usage(output.usage, *response.mutable_usage());
      }
      write_token(output, *tokens->add_tokens());
    }
    if (output.finish) write_end(output, out.emplace_back());
  }
}

Result<void> read(const oe::GenerateResponse& in, Expected& expected, std::vector<Output>& out) {
  const Usage usage = read_usage(in.usage(), expected.waited);
  switch (in.event_case()) {
    case oe::GenerateResponse::kToken:
      for (const oe::TokenInfo& token : in.token().tokens()) {
        const auto known = [&](std::uint32_t id) { return id < expected.vocabulary_size; };
        if (!known(token.token_id()) || expected.tokens_left == 0) {
          return invalid("it gave a token that was not asked for");
        }
        --expected.tokens_left;
        Output& output = out.emplace_back(Output{.request = expected.request,
                                                 .token = static_cast<Token>(token.token_id()),
                                                 .logprob = static_cast<float>(token.logprob()),
                                                 .usage = usage});
        for (const oe::LogProb& top : token.candidates()) {
          if (!known(top.token_id())) return invalid("it gave a token that was not asked for");
          output.top.push_back(
              {static_cast<Token>(top.token_id()), static_cast<float>(top.logprob())});
        }
      }
      return {};
    case oe::GenerateResponse::kPrefillReady: {
      if (expected.kv_blocks_max == 0) return invalid("it gave an event that was not asked for");
      Result<KvTicket> ticket = read(in.prefill_ready().kv_session(), expected.kv_blocks_max);
      if (!ticket) return std::unexpected(ticket.error());
      if (ticket->at.tcp_port != 0 && ticket->at.tcp_host.empty()) {
        ticket->at.tcp_host = expected.worker_host;
      }
      out.push_back({.request = expected.request,
                     .finish = FinishReason::kLength,
                     .usage = usage,
                     .kv = std::make_shared<const KvTicket>(std::move(*ticket))});
      return {};
    }
    case oe::GenerateResponse::kFinished: {
      const Result<FinishReason> reason = read_reason(in.finished().reason());
      if (!reason) return std::unexpected(reason.error());
      out.push_back({.request = expected.request, .finish = *reason, .usage = usage});
      return {};
    }
    case oe::GenerateResponse::kError:
      out.push_back({.request = expected.request,
                     .finish = FinishReason::kError,
                     .usage = usage,
                     .error = in.error().message(),
                     .error_code = code_of(in.error().code())});
      return {};
    default: return invalid("it gave an event that was not asked for");
  }
}

void write(const EngineInfo& info, bool tells_kv_events, ps::ModelCard& out) {
  out.set_model(info.model);
  out.set_kv_compatibility_key(info.kv_compatibility_key);
  out.set_block_tokens(info.block_tokens);
  out.set_computed_tokens_min(info.computed_tokens_min);
  out.set_context_tokens_max(info.context_tokens_max);
  out.set_sequences_max(info.sequences_max);
  out.set_queue_max(info.queue_max);
  out.set_kv_blocks_max(info.kv_blocks_max);
  out.set_vocabulary_size(info.vocabulary_size);
  out.set_embedding_size(info.embedding_size);
  out.set_tells_kv_events(tells_kv_events);
  out.set_kv_hash(std::string(kKvHash));
  out.set_hands_kv_over(info.hands_kv_over);
  out.set_embeds_only(info.embeds_only);
  out.set_kv_tiers_key(info.kv_tiers_key);
}

Result<EngineInfo> read(const ps::ModelCard& in) {
  if (in.kv_hash() != kKvHash) {
    return invalid(
        fmt::format("the worker names KV blocks by {}, this front end by {}: use one build",
                    in.kv_hash().substr(0, 60), kKvHash));
  }
  if (in.model().empty() || in.block_tokens() == 0 || in.context_tokens_max() < 2 ||
      in.sequences_max() == 0 || in.vocabulary_size() == 0 || !is_token(in.vocabulary_size())) {
    return invalid("the worker's card lacks its model or its limits");
  }
  return EngineInfo{.model = in.model(),
                    .kv_compatibility_key = in.kv_compatibility_key(),
                    .block_tokens = in.block_tokens(),
                    .computed_tokens_min = in.computed_tokens_min(),
                    .context_tokens_max = in.context_tokens_max(),
                    .sequences_max = in.sequences_max(),
                    .queue_max = in.queue_max(),
                    .kv_blocks_max = in.kv_blocks_max(),
                    .vocabulary_size = in.vocabulary_size(),
                    .embedding_size = in.embedding_size(),
                    .hands_kv_over = in.hands_kv_over(),
                    .embeds_only = in.embeds_only(),
                    .kv_tiers_key = in.kv_tiers_key()};
}

void write(const kv::Event& event, oe::KvEvent& out) {
  switch (event.kind) {
    case kv::Event::Kind::kStored: {
      oe::BlockStored& stored = *out.mutable_block_stored();
      write_hash(event.hash, *stored.add_block_hashes());
      write_hash(event.parent, *stored.mutable_parent_block_hash());
      write_tokens(event.tokens, *stored.mutable_token_ids());
      stored.set_block_size(static_cast<std::uint32_t>(event.tokens.size()));
      stored.set_local_hash(event.local);
      stored.set_begins_chain(event.begins_chain);
      break;
    }
    case kv::Event::Kind::kRemoved:
      write_hash(event.hash, *out.mutable_block_removed()->add_block_hashes());
      break;
    case kv::Event::Kind::kCleared: out.mutable_all_blocks_cleared(); break;
  }
}

Result<kv::Event> read(const oe::KvEvent& in) {
  kv::Event event;
  const auto only_hash = [&](const auto& hashes) -> Result<void> {
    if (hashes.size() != 1) return invalid("an event names not one block");
    Result<kv::BlockHash> hash = read_hash(hashes[0]);
    if (!hash) return std::unexpected(hash.error());
    event.hash = *hash;
    return {};
  };
  switch (in.event_case()) {
    case oe::KvEvent::kBlockStored: {
      const oe::BlockStored& stored = in.block_stored();
      event.kind = kv::Event::Kind::kStored;
      Result<kv::BlockHash> parent = read_hash(stored.parent_block_hash());
      Result<void> fine = only_hash(stored.block_hashes());
      if (!parent) fine = std::unexpected(parent.error());
      if (fine) fine = read_tokens(stored.token_ids(), event.tokens);
      if (!fine) return std::unexpected(fine.error());
      event.parent = *parent;
      event.begins_chain = stored.begins_chain();
      event.local = stored.local_hash();
      return event;
    }
    case oe::KvEvent::kBlockRemoved: {
      event.kind = kv::Event::Kind::kRemoved;
      if (Result<void> fine = only_hash(in.block_removed().block_hashes()); !fine) {
        return std::unexpected(fine.error());
      }
      return event;
    }
    case oe::KvEvent::kAllBlocksCleared: return event;
    default: return invalid("an event of an unknown kind");
  }
}

Code code_of(std::string_view name) noexcept {
  for (int i = 0; i <= static_cast<int>(Code::kCancelled); ++i) {
    if (openai_code(static_cast<Code>(i)) == name) return static_cast<Code>(i);
  }
  return Code::kInternal;
}

oe::ErrorCode error_code(Code code) noexcept {
  switch (code) {
    case Code::kInvalidArgument:
    case Code::kContextLength: return oe::ERROR_CODE_INVALID_ARGUMENT;
    case Code::kUnprocessable:
    case Code::kUnimplemented: return oe::ERROR_CODE_UNSUPPORTED_FEATURE;
    case Code::kModelNotFound: return oe::ERROR_CODE_MODEL_NOT_FOUND;
    case Code::kOverloaded: return oe::ERROR_CODE_OVERLOADED;
    case Code::kUnavailable: return oe::ERROR_CODE_DRAINING;
    case Code::kCancelled: return oe::ERROR_CODE_CANCELLED;
    default: return oe::ERROR_CODE_INTERNAL;
  }
}

Code code_of(oe::ErrorCode code) noexcept {
  switch (code) {
    case oe::ERROR_CODE_INVALID_ARGUMENT: return Code::kInvalidArgument;
    case oe::ERROR_CODE_UNSUPPORTED_FEATURE: return Code::kUnprocessable;
    case oe::ERROR_CODE_MODEL_NOT_FOUND: return Code::kModelNotFound;
    case oe::ERROR_CODE_OVERLOADED: return Code::kOverloaded;
    case oe::ERROR_CODE_DRAINING: return Code::kUnavailable;
    case oe::ERROR_CODE_CANCELLED: return Code::kCancelled;
    default: return Code::kInternal;
  }
}

}  // namespace penstock::engine::wire
