#include "engine/llama/sampler.h"

#include <fmt/format.h>
#include <llama-cpp.h>
#include <sampling.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <numeric>
#include <random>

#include "text/constraint_limits.h"

namespace penstock::engine::llama {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool plain_greedy(const GenerateRequest& r) {
  const Sampling& s = r.sampling;
  return s.temperature <= 0 && s.frequency_penalty == 0 && s.presence_penalty == 0 &&
         s.repetition_penalty == 1 && s.logit_bias.empty() && r.grammar.gbnf.empty();
}

void set_grammar(const text::AnswerGrammar& grammar, const llama_vocab* vocab,
                 common_params_sampling& params) {
  if (grammar.gbnf.empty()) return;
  params.grammar = common_grammar(
      grammar.prefill.empty() ? COMMON_GRAMMAR_TYPE_USER : COMMON_GRAMMAR_TYPE_TOOL_CALLS,
      grammar.gbnf);
  params.generation_prompt = grammar.prefill;
  params.grammar_lazy = grammar.lazy;
  for (const std::string& text : grammar.preserved_tokens) {
    const llama_tokens tokens = common_tokenize(vocab, text, false, true);
    if (tokens.size() == 1) params.preserved_tokens.insert(tokens[0]);
  }
  for (const text::AnswerGrammar::Trigger& trigger : grammar.triggers) {
    common_grammar_trigger made{COMMON_GRAMMAR_TRIGGER_TYPE_WORD, trigger.value, LLAMA_TOKEN_NULL};
    if (trigger.kind == text::AnswerGrammar::Trigger::Kind::kPattern) {
      made.type = COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN;
    } else if (trigger.kind == text::AnswerGrammar::Trigger::Kind::kPatternFull) {
      made.type = COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL;
    } else if (const llama_tokens tokens = common_tokenize(vocab, trigger.value, false, true);
               tokens.size() == 1) {
      // A word that is one token triggers as that token.
      made.type = COMMON_GRAMMAR_TRIGGER_TYPE_TOKEN;
      made.token = tokens[0];
      params.preserved_tokens.insert(tokens[0]);
    }
    params.grammar_triggers.push_back(std::move(made));
  }
}

/// common_sampler_init() leaks what it has made so far when the grammar does not parse.
bool parses(const text::AnswerGrammar& grammar, const llama_vocab* vocab) {
  if (grammar.gbnf.empty() || grammar.parses) return true;
  const llama_sampler_ptr trial(llama_sampler_init_grammar(vocab, grammar.gbnf.c_str(), "root"));
  return trial != nullptr;
}

}  // namespace

struct Sampler::Chain {
  common_params_sampling params;
  common_sampler_ptr sampler;
};

Sampler::Sampler(const text::ModelFile& model, const GenerateRequest& request)
    : model_(&model),
      stop_token_ids_(request.stop_token_ids),
      top_logprobs_(request.top_logprobs),
      min_tokens_(request.min_tokens),
      ignore_eos_(request.ignore_eos) {}

Sampler::~Sampler() = default;

Result<std::unique_ptr<Sampler>> Sampler::make(const text::ModelFile& model,
                                               const GenerateRequest& request) {
  std::unique_ptr<Sampler> made(new Sampler(model, request));
  const llama_vocab* vocab = llama_model_get_vocab(model.handle());
  const std::int32_t vocabulary = llama_vocab_n_tokens(vocab);
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (token < 0 || token >= vocabulary) {
      return fail(Code::kInvalidArgument,
                  fmt::format("logit_bias names token {}; this model has tokens 0 to {}", token,
                              vocabulary - 1),
                  "logit_bias");
    }
  }
  if (request.ignore_eos || request.min_tokens > 0) {
    for (Token token = 0; token < vocabulary; ++token) {
      if (llama_vocab_is_eog(vocab, token)) made->endings_.push_back(token);
    }
  }
  if (plain_greedy(request)) return made;
  if (!request.grammar.checked) {
    if (Result<void> fine = text::check_gbnf(request.grammar.gbnf); !fine) {
      return std::unexpected(fine.error());
    }
  }
  if (!parses(request.grammar, vocab)) {
    return fail(Code::kInvalidArgument, "the grammar does not parse as GBNF", "grammar");
  }

  made->chain_ = std::make_unique<Chain>();
  common_params_sampling& params = made->chain_->params;
  const Sampling& s = request.sampling;
  params.temp = s.temperature;
  params.top_p = s.top_p;
  params.min_p = s.min_p;
  params.top_k = s.top_k;
  params.penalty_freq = s.frequency_penalty;
  params.penalty_present = s.presence_penalty;
  params.penalty_repeat = s.repetition_penalty;
  params.penalty_last_n = s.penalty_last_n;
  params.seed = s.seed.value_or(std::random_device{}());
  params.no_perf = true;
  for (const auto& [token, bias] : s.logit_bias) {
    params.logit_bias.push_back({token, bias <= -100 ? kNever : bias});
  }
  try {
    set_grammar(request.grammar, vocab, params);
    made->chain_->sampler.reset(common_sampler_init(model.handle(), params));
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument,
                fmt::format("the grammar cannot be used: {}", problem.what()), "grammar");
  }
  if (made->chain_->sampler == nullptr) {
    return fail(Code::kInternal, "llama.cpp cannot make a sampler of this request");
  }
  const bool penalises =
      s.frequency_penalty != 0 || s.presence_penalty != 0 || s.repetition_penalty != 1;
  if (penalises) {
    const std::size_t n = std::min<std::size_t>(
        request.prompt.size(), static_cast<std::size_t>(std::max(0, s.penalty_last_n)));
    for (std::size_t i = request.prompt.size() - n; i < request.prompt.size(); ++i) {
      common_sampler_accept(made->chain_->sampler.get(), request.prompt[i], false);
    }
  }
  return made;
}

bool Sampler::ends(Token token) const {
  if (std::ranges::find(stop_token_ids_, token) != stop_token_ids_.end()) return true;
  return !ignore_eos_ && llama_vocab_is_eog(llama_model_get_vocab(model_->handle()), token);
}

void Sampler::ban_endings(std::span<float> logits) const {
  for (const Token token : endings_) logits[static_cast<std::size_t>(token)] = kNever;
  if (drawn_ >= min_tokens_) return;
  for (const Token token : stop_token_ids_) {
    if (token >= 0 && static_cast<std::size_t>(token) < logits.size()) {
      logits[static_cast<std::size_t>(token)] = kNever;
    }
  }
}

void Sampler::fill_logprobs(std::span<const float> logits, Drawn& drawn) const {
  const float highest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l - highest));
  const auto log_sum = static_cast<float>(static_cast<double>(highest) + std::log(sum));
  drawn.logprob = logits[static_cast<std::size_t>(drawn.token)] - log_sum;
  const std::size_t n = std::min<std::size_t>(*top_logprobs_, logits.size());
  if (n == 0) return;
  std::vector<Token> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto more_likely = [&](Token a, Token b) {
    const float la = logits[static_cast<std::size_t>(a)];
    const float lb = logits[static_cast<std::size_t>(b)];
    return la != lb ? la > lb : a < b;
  };
  std::ranges::partial_sort(order, order.begin() + static_cast<std::ptrdiff_t>(n), more_likely);
  for (std::size_t i = 0; i < n; ++i) {
    drawn.top.push_back({order[i], logits[static_cast<std::size_t>(order[i])] - log_sum});
  }
}

Result<Sampler::Drawn> Sampler::draw(llama_context* context, std::int32_t row) {
  float* const data = llama_get_logits_ith(context, row);
  if (data == nullptr) return fail(Code::kInternal, "the model gave no logits");
  const std::int32_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model_->handle()));
  const std::span<float> logits(data, static_cast<std::size_t>(vocabulary));
  Drawn drawn;
  const bool bans_endings = ignore_eos_ || drawn_ < min_tokens_;
  if (bans_endings) ban_endings(logits);
  if (chain_ == nullptr) {
    drawn.token = static_cast<Token>(std::ranges::max_element(logits) - logits.begin());
  } else {
    try {
      drawn.token = common_sampler_sample(chain_->sampler.get(), context, row);
      common_sampler_accept(chain_->sampler.get(), drawn.token, true);
    } catch (const std::exception& problem) {
      // A grammar that is complete allows only ends, and those may be banned: then this is one.
      if (!bans_endings) {
        return fail(Code::kInternal, fmt::format("the grammar cannot go on: {}", problem.what()));
      }
      drawn.token = llama_vocab_eos(llama_model_get_vocab(model_->handle()));
      drawn.ends = true;
      return drawn;
    }
  }
  drawn.ends = ends(drawn.token);
  if (top_logprobs_) fill_logprobs(logits, drawn);
  ++drawn_;
  return drawn;
}

}  // namespace penstock::engine::llama
