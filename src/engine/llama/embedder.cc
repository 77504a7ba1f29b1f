#include "engine/llama/embedder.h"

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/log.h"
#include "engine/llama/batch_shape.h"

namespace penstock::engine::llama {
namespace {

/// How the model pools, as its file says it; NONE and RANK make no embeddings.
enum llama_pooling_type pooling_of(const text::ModelFile& model) {
  const std::string key = model.metadata("general.architecture") + ".pooling_type";
  const std::string said = model.metadata(key);
  for (const auto type :
       {LLAMA_POOLING_TYPE_MEAN, LLAMA_POOLING_TYPE_CLS, LLAMA_POOLING_TYPE_LAST}) {
    if (said == std::to_string(static_cast<int>(type))) return type;
  }
  return LLAMA_POOLING_TYPE_NONE;
}

std::vector<float> normalised(std::span<const double> values) {
  double squares = 0;
  for (const double v : values) squares += v * v;
  const double scale = squares > 0 ? 1 / std::sqrt(squares) : 0;
  std::vector<float> vector(values.size());
  std::ranges::transform(values, vector.begin(),
                         [scale](double v) { return static_cast<float>(v * scale); });
  return vector;
}

}  // namespace

std::unique_ptr<Embedder> Embedder::make(const text::ModelFile& model,
                                         const llama_context_params& params,
                                         std::uint32_t context_tokens, bool looks_ahead,
                                         ggml_threadpool* pool) {
  const enum llama_pooling_type type = pooling_of(model);
  if (type == LLAMA_POOLING_TYPE_NONE) return nullptr;
  std::unique_ptr<Embedder> made(new Embedder());
  made->size_ = static_cast<std::uint32_t>(llama_model_n_embd_out(model.handle()));
  // Layers behind the pooling are llama.cpp's as well.
  const bool plain = llama_model_n_embd_out(model.handle()) == llama_model_n_embd(model.handle());
  llama_context_params own = params;
  own.n_seq_max = 1;
  own.n_ctx = context_tokens;
  own.embeddings = true;
  if (!looks_ahead && plain) {
    made->pooling_ = type == LLAMA_POOLING_TYPE_MEAN  ? Pooling::kMean
                     : type == LLAMA_POOLING_TYPE_CLS ? Pooling::kFirst
                                                      : Pooling::kLast;
    own.pooling_type = LLAMA_POOLING_TYPE_NONE;
    own.n_batch = own.n_ubatch = kPartRows;
  } else {
    own.n_batch = own.n_ubatch = context_tokens;
  }
  made->context_ = llama_init_from_model(model.handle(), own);
  if (made->context_ == nullptr) {
    log::warn(
        "embeddings are off: llama.cpp cannot make a context of {} tokens for them; lower "
        "--context",
        context_tokens);
    return nullptr;
  }
  llama_attach_threadpool(made->context_, pool, pool);
  return made;
}

Embedder::~Embedder() {
  if (context_ != nullptr) llama_free(context_);
}

Result<std::vector<float>> Embedder::advance(std::span<const Token> tokens,
                                             std::uint32_t rows_max) {
  if (computed_ == 0) {
    if (llama_memory_t memory = llama_get_memory(context_); memory != nullptr) {
      llama_memory_clear(memory, false);
    }
    pooled_.assign(size_, 0);
  }
  std::span<const Token> part = tokens.subspan(computed_);
  if (pooling_ != Pooling::kByLlama) {
    part = part.first(std::min<std::size_t>(part.size(), std::clamp(rows_max, 1U, kPartRows)));
  }
  if (!compute(part)) {
    reset();
    return fail(Code::kInternal, "llama.cpp could not compute the embedding");
  }
  const float* rows = pooling_ == Pooling::kByLlama ? llama_get_embeddings_seq(context_, 0)
                                                    : llama_get_embeddings(context_);
  if (rows == nullptr) {
    reset();
    return fail(Code::kInternal, "llama.cpp made no embedding");
  }
  if (pooling_ == Pooling::kByLlama) {
    std::copy_n(rows, size_, pooled_.begin());
  } else {
    for (std::size_t i = 0; i < part.size(); ++i) {
      add({rows + i * size_, size_}, computed_ + i, tokens.size());
    }
  }
  computed_ += part.size();
  if (computed_ < tokens.size()) return std::vector<float>();
  reset();
  return normalised(pooled_);
}

bool Embedder::compute(std::span<const Token> part) {
  // llama.cpp only reads them, and counts the positions itself.
  const llama_batch batch = llama_batch_get_one(const_cast<llama_token*>(part.data()),
                                                static_cast<std::int32_t>(part.size()));
  const bool decodes = llama_model_has_decoder(llama_get_model(context_));
  return (decodes ? llama_decode(context_, batch) : llama_encode(context_, batch)) == 0;
}

void Embedder::add(std::span<const float> row, std::size_t position, std::size_t tokens) {
  const bool counts =
      pooling_ == Pooling::kMean || position == (pooling_ == Pooling::kFirst ? 0 : tokens - 1);
  if (!counts) return;
  for (std::size_t i = 0; i < row.size(); ++i) pooled_[i] += row[i];
}

}  // namespace penstock::engine::llama
