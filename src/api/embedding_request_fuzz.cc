#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/fuzz_checks.h"
#include "api/openai.h"
#include "api/padded_body.h"
#include "base/check.h"

using namespace penstock;
using namespace penstock::api;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const PaddedBody body({reinterpret_cast<const char*>(data), size});
  const auto request = parse_embedding_request(body.view());
  if (!request) {
    check_error(request.error());
    return 0;
  }
  CHECK(!request->model.empty());
  CHECK_LE(request->inputs.size(), kEmbeddingInputsMax);
  check_texts_or_tokens(request->inputs);
  return 0;
}
