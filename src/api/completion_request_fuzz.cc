#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>

#include "api/fuzz_checks.h"
#include "api/openai.h"
#include "api/padded_body.h"
#include "base/check.h"

using namespace penstock;
using namespace penstock::api;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const PaddedBody body({reinterpret_cast<const char*>(data), size});
  const auto request = parse_completion_request(body.view());
  if (!request) {
    check_error(request.error());
    return 0;
  }
  check_generation_params(*request);
  CHECK_LE(request->prompts.size(), kPromptsMax);
  CHECK_LE(request->prompts.size() * request->n, kCompletionChoicesMax);
  check_texts_or_tokens(request->prompts);
  return 0;
}
