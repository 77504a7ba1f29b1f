#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "text/model_file.h"

struct llama_context;

namespace penstock::engine::llama {

/// Draws the next token of one sequence: llama.cpp's sampler chain and grammar, with a short cut
/// for plain greedy. One sequence, the worker's thread.
class Sampler final {
 public:
  struct Drawn {
    Token token = 0;
    bool ends = false;  // an end-of-generation token, or one of stop_token_ids
    float logprob = 0;
    std::vector<TopLogprob> top;
  };

  /// Compiles the grammar. Fails with kInvalidArgument and the reason. Thread: any (the engine
  /// calls it on the caller's, so that a bad grammar is refused before it is queued).
  static Result<std::unique_ptr<Sampler>> make(const text::ModelFile& model,
                                               const GenerateRequest& request);
  ~Sampler();

  /// Draws from the logits of batch row `row` of the context's last decode, and takes the token
  /// into its history. Fails with kInternal when the grammar cannot go on.
  Result<Drawn> draw(llama_context* context, std::int32_t row);

 private:
  struct Chain;  // llama.cpp's

  Sampler(const text::ModelFile& model, const GenerateRequest& request);
  void ban_endings(std::span<float> logits) const;
  void fill_logprobs(std::span<const float> logits, Drawn& drawn) const;
  [[nodiscard]] bool ends(Token token) const;

  const text::ModelFile* model_;
  std::unique_ptr<Chain> chain_;  // null: greedy without anything else
  std::vector<Token> stop_token_ids_;
  std::vector<Token> endings_;  // the vocabulary's, filled only if they must be banned for a while
  std::optional<std::uint32_t> top_logprobs_;
  std::uint32_t min_tokens_;
  bool ignore_eos_;
  std::uint32_t drawn_ = 0;
};

}  // namespace penstock::engine::llama
