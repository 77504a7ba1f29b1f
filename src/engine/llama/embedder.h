#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/model_file.h"

struct ggml_threadpool;
struct llama_context;
// NOLINTNEXTLINE(readability-identifier-naming): llama.cpp's
struct llama_context_params;

namespace penstock::engine::llama {

/// llama.cpp's context for embeddings, and the input that it is at. One thread.
///
/// A model whose tokens look back only is given its input in parts, as prompts are, so that nobody
/// waits for a long one; what llama.cpp would pool at the end of a call is then pooled here. A
/// model that looks ahead takes an input whole: it cannot generate, so there are no answers to hold
/// up.
class Embedder final {
 public:
  /// `params`: of the worker's context, of `context_tokens` a sequence. Null: the model makes no
  /// embeddings, or (said in the log) there is no memory for them. `pool` must outlive it.
  static std::unique_ptr<Embedder> make(const text::ModelFile& model,
                                        const llama_context_params& params,
                                        std::uint32_t context_tokens, bool looks_ahead,
                                        ggml_threadpool* pool);
  ~Embedder();
  Embedder(const Embedder&) = delete;
  Embedder& operator=(const Embedder&) = delete;

  /// Floats of a vector.
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }

  /// Computes more of the input `tokens`: `rows_max` rows at most, if it takes parts. Gives the
  /// vector, of length 1, when that was the rest, and an empty one before. The same input is to be
  /// given again until then; afterwards, on failure and after reset() another begins.
  Result<std::vector<float>> advance(std::span<const Token> tokens, std::uint32_t rows_max);
  void reset() noexcept { computed_ = 0; }

 private:
  enum class Pooling : std::uint8_t { kByLlama, kMean, kFirst, kLast };

  Embedder() = default;
  [[nodiscard]] bool compute(std::span<const Token> part);
  void add(std::span<const float> row, std::size_t position, std::size_t tokens);

  llama_context* context_ = nullptr;
  Pooling pooling_ = Pooling::kByLlama;
  std::uint32_t size_ = 0;
  std::size_t computed_ = 0;    // tokens of the input
  std::vector<double> pooled_;  // of those
};

}  // namespace penstock::engine::llama
