#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "engine/simulated/simulated_engine.h"

namespace penstock::engine::simulated {

/// What the simulated engine answers: a pure function of the prompt, the cache salt, the seed and
/// the position. A value.
class Answer final {
 public:
  Answer() = default;
  Answer(std::span<const Token> prompt, std::string_view cache_salt, std::uint64_t seed);

  /// The token at `index`, as a place in a vocabulary of `size` tokens.
  [[nodiscard]] std::uint32_t draw(std::uint32_t index, std::uint32_t size) const noexcept;

  /// Whether the answer ends of itself at `index`, given the probability of that.
  [[nodiscard]] bool ends(std::uint32_t index, double probability) const noexcept;

 private:
  std::uint64_t digest_ = 0;
};

/// The draw at one position under a request's rules: a place in options.vocabulary, or absent where
/// the answer ends of itself (by eos_probability, or at a stop token, which is not shown).
[[nodiscard]] std::optional<std::uint32_t> step(const SimulatedOptions& options,
                                                const Answer& answer,
                                                const GenerateRequest& request,
                                                std::uint32_t index) noexcept;

/// The answer to `request` in full, as the engine would give it undisturbed: its tokens, and kStop
/// or kLength.
struct WholeAnswer {
  std::vector<Token> tokens;
  FinishReason finish = FinishReason::kLength;
};
[[nodiscard]] WholeAnswer whole_answer(const SimulatedOptions& options,
                                       const GenerateRequest& request);

/// How many tokens a request may get: its max_tokens, or less where the context ends.
[[nodiscard]] std::uint32_t output_tokens_max(const SimulatedOptions& options,
                                              const GenerateRequest& request) noexcept;

/// options.context_tokens_max, or what the KV blocks can hold if that is less.
[[nodiscard]] std::uint32_t context_tokens_max(const SimulatedOptions& options) noexcept;

/// Natural log of the probability that every drawn token is said to have had.
inline constexpr float kDrawnLogprob = -0.25F;

/// The `count` most likely tokens at a position where `drawn` (a place in the vocabulary) was
/// drawn, most likely first: itself, then its neighbours in the vocabulary. Fewer if there are not
/// as many.
[[nodiscard]] std::vector<TopLogprob> top_logprobs(std::span<const Token> vocabulary,
                                                   std::uint32_t drawn, std::uint32_t count);

/// A vector of length 1 (L2) that depends on the tokens alone. `size` >= 1.
[[nodiscard]] std::vector<float> embedding(std::span<const Token> tokens, std::uint32_t size);

}  // namespace penstock::engine::simulated
