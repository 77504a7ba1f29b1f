#include "engine/engine.h"

namespace penstock::engine {

Result<void> Engine::clear_cache() {
  return fail(Code::kUnprocessable, "this worker keeps no KV of earlier requests");
}

std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::kStop: return "stop";
    case FinishReason::kLength: return "length";
    case FinishReason::kCancelled: return "cancelled";
    case FinishReason::kError: return "error";
  }
  return "error";
}

}  // namespace penstock::engine
