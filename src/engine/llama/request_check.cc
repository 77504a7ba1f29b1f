#include "engine/llama/request_check.h"

#include <fmt/format.h>

#include "base/check.h"

namespace penstock::engine::llama {

Result<void> check(const GenerateRequest& r, const EngineInfo& info) {
  CHECK(r.sink != nullptr);
  if (info.embeds_only) {
    return fail(Code::kUnprocessable, "this model makes embeddings only", "model");
  }
  if (r.prompt.empty()) return fail(Code::kInvalidArgument, "the prompt is empty", "prompt");
  if (r.max_tokens == 0 && !r.prefill_only) {
    return fail(Code::kInvalidArgument, "max_tokens: expected at least 1", "max_tokens");
  }
  if (r.prompt.size() >= info.context_tokens_max) {
    return fail(Code::kInvalidArgument,
                fmt::format("the prompt has {} tokens; with at least one to answer, this server "
                            "takes at most {}",
                            r.prompt.size(), info.context_tokens_max - 1),
                "messages");
  }
  for (const Token token : r.prompt) {
    if (token < 0 || static_cast<std::uint32_t>(token) >= info.vocabulary_size) {
      return fail(Code::kInvalidArgument,
                  fmt::format("token id {} is not in this model's vocabulary of {}", token,
                              info.vocabulary_size),
                  "prompt");
    }
  }
  return {};
}

Result<void> check(const EmbedRequest& r, const EngineInfo& info) {
  if (info.embedding_size == 0) {
    return fail(Code::kUnprocessable, "this model does not make embeddings", "model");
  }
  if (r.tokens.empty() || r.tokens.size() > info.context_tokens_max) {
    return fail(Code::kInvalidArgument,
                fmt::format("the input has {} tokens; this model takes 1 to {}", r.tokens.size(),
                            info.context_tokens_max),
                "input");
  }
  return {};
}

}  // namespace penstock::engine::llama
