#include "engine/llama/request_check.h"

#include <fmt/format.h>

#include "base/check.h"

namespace penstock::engine::llama {

Result<void> check(const GenerateRequest& r, const EngineInfo& info) {
  CHECK(r.sink != nullptr);
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

}  // namespace penstock::engine::llama
