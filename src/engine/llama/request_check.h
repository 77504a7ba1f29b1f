#pragma once

#include "base/result.h"
#include "engine/engine.h"

namespace penstock::engine::llama {

/// Whether a worker that is `info` could ever run the request, but for its grammar: prompt, length,
/// token ids. Fails with kInvalidArgument, which says what is wrong.
Result<void> check(const GenerateRequest& request, const EngineInfo& info);

/// The same of an embedding. Both fail with kUnprocessable where the model does not do that at all.
Result<void> check(const EmbedRequest& request, const EngineInfo& info);

}  // namespace penstock::engine::llama
