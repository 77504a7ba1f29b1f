#include "engine/simulated/answer.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"

namespace penstock::engine::simulated {
namespace {

/// The `index`-th number of the stream that `digest` and `purpose` name.
std::uint64_t number(std::uint64_t digest, std::uint64_t purpose, std::uint64_t index) noexcept {
  return mix64(digest + purpose + (index + 1) * 0x9E3779B97F4A7C15ULL);
}

constexpr std::uint64_t kDraw = 0;
constexpr std::uint64_t kEnd = 0x5851F42D4C957F2DULL;

/// Uniform in [0, 1).
double unit(std::uint64_t number) noexcept { return static_cast<double>(number >> 11) * 0x1p-53; }

}  // namespace

Answer::Answer(std::span<const Token> prompt, std::string_view cache_salt, std::uint64_t seed)
    : digest_(
          XXH3_64bits_withSeed(prompt.data(), prompt.size_bytes(),
                               XXH3_64bits_withSeed(cache_salt.data(), cache_salt.size(), seed))) {}

std::uint32_t Answer::draw(std::uint32_t index, std::uint32_t size) const noexcept {
  return static_cast<std::uint32_t>(((number(digest_, kDraw, index) >> 32) * size) >> 32);
}

bool Answer::ends(std::uint32_t index, double probability) const noexcept {
  return probability > 0 && unit(number(digest_, kEnd, index)) < probability;
}

std::optional<std::uint32_t> step(const SimulatedOptions& options, const Answer& answer,
                                  const GenerateRequest& request, std::uint32_t index) noexcept {
  const bool may_end = index >= request.min_tokens;
  if (may_end && !request.ignore_eos && answer.ends(index, options.eos_probability)) return {};
  const auto size = static_cast<std::uint32_t>(options.vocabulary.size());
  const std::uint32_t drawn = answer.draw(index, size);
  const std::vector<Token>& stops = request.stop_token_ids;
  if (may_end && std::ranges::find(stops, options.vocabulary[drawn]) != stops.end()) return {};
  return drawn;
}

WholeAnswer whole_answer(const SimulatedOptions& options, const GenerateRequest& request) {
  const Answer answer(request.prompt, request.cache_salt,
                      request.sampling.seed ? *request.sampling.seed : options.seed);
  WholeAnswer whole;
  const std::uint32_t tokens_max = output_tokens_max(options, request);
  for (std::uint32_t i = 0; i < tokens_max; ++i) {
    const std::optional<std::uint32_t> drawn = step(options, answer, request, i);
    if (!drawn) {
      whole.finish = FinishReason::kStop;
      break;
    }
    whole.tokens.push_back(options.vocabulary[*drawn]);
  }
  return whole;
}

std::uint32_t context_tokens_max(const SimulatedOptions& options) noexcept {
  const std::uint64_t kv_tokens =
      std::uint64_t{options.worker.kv_blocks} * options.worker.block_tokens;
  // Without chunked prefill a preempted sequence must come back in a single pass.
  const std::uint64_t pass_tokens =
      options.worker.chunked_prefill ? kv_tokens : options.worker.pass_tokens_max;
  return static_cast<std::uint32_t>(
      std::min({std::uint64_t{options.context_tokens_max}, kv_tokens, pass_tokens}));
}

std::uint32_t output_tokens_max(const SimulatedOptions& options,
                                const GenerateRequest& request) noexcept {
  const auto prompt = static_cast<std::uint32_t>(request.prompt.size());
  return std::min(request.max_tokens, context_tokens_max(options) - prompt);
}

std::vector<TopLogprob> top_logprobs(std::span<const Token> vocabulary, std::uint32_t drawn,
                                     std::uint32_t count) {
  std::vector<TopLogprob> top;
  count = static_cast<std::uint32_t>(std::min<std::size_t>(count, vocabulary.size()));
  top.reserve(count);
  // What the drawn token leaves of the probability is halved from one to the next.
  const double rest = std::log1p(-std::exp(kDrawnLogprob));
  for (std::uint32_t i = 0; i < count; ++i) {
    const double logprob = i == 0 ? kDrawnLogprob : rest - i * std::log(2.0);
    top.push_back({vocabulary[(drawn + i) % vocabulary.size()], static_cast<float>(logprob)});
  }
  return top;
}

std::vector<float> embedding(std::span<const Token> tokens, std::uint32_t size) {
  const std::uint64_t digest = XXH3_64bits(tokens.data(), tokens.size_bytes());
  std::vector<double> values(size);
  double squares = 0;
  for (std::uint32_t i = 0; i < size; ++i) {
    values[i] = 2 * unit(number(digest, kDraw, i)) - 1;
    if (values[i] == 0) values[i] = 0x1p-53;  // so that there is a direction even for size 1
    squares += values[i] * values[i];
  }
  std::vector<float> result(size);
  const double norm = std::sqrt(squares);
  std::ranges::transform(values, result.begin(),
                         [norm](double value) { return static_cast<float>(value / norm); });
  return result;
}

}  // namespace penstock::engine::simulated
