#include <simdjson.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/fuzz_checks.h"
#include "api/openai.h"
#include "api/padded_body.h"
#include "base/check.h"

using namespace penstock;
using namespace penstock::api;

namespace {

/// By simdjson's other parser, which keeps every value.
bool is_json(std::string_view text) {
  simdjson::dom::parser parser;
  const auto error = parser.parse(text.data(), text.size()).error();
  // It holds numbers too, so one beyond its types is an error to it; the grammar allows that.
  return error == simdjson::SUCCESS || error == simdjson::NUMBER_ERROR;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const PaddedBody body({reinterpret_cast<const char*>(data), size});
  const auto request = parse_chat_request(body.view());
  if (!request) {
    check_error(request.error());
    return 0;
  }
  check_generation_params(*request);
  CHECK(!request->messages.empty());
  CHECK_LE(request->messages.size(), kMessagesMax);
  CHECK_LE(request->tools.size(), kToolsMax);
  for (const ChatMessage& message : request->messages) {
    CHECK(is_utf8(message.content));
    CHECK(!message.role.empty());
    CHECK_EQ(message.role == "tool", !message.tool_call_id.empty());
    CHECK(message.role == "assistant" || message.tool_calls.empty());
  }
  for (const Tool& tool : request->tools) {
    CHECK(!tool.name.empty());
    CHECK(tool.parameters.empty() || is_json(tool.parameters));
  }
  for (const auto& [name, value] : request->template_kwargs) CHECK(is_json(value));
  const ResponseFormat& format = request->response_format;
  CHECK_EQ(format.kind == ResponseFormat::Kind::kJsonSchema, !format.schema.empty());
  CHECK(format.schema.empty() || is_json(format.schema));
  return 0;
}
