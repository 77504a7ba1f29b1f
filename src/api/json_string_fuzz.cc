// Any bytes written as a JSON string and parsed again, as the text of a chat message.

#include <simdjson.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "api/internal/json_text.h"
#include "api/openai.h"
#include "api/padded_body.h"
#include "base/check.h"

using namespace penstock;
using namespace penstock::api;

namespace {

bool is_utf8(std::string_view bytes) { return simdjson::validate_utf8(bytes.data(), bytes.size()); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  CHECK_EQ(utf8_error_offset(text) == size, is_utf8(text));

  std::string json = R"({"messages":[{"content":)";
  append_json_string(json, text);
  json += R"(,"role":"user"}],"model":"m"})";
  const PaddedBody body(json);
  const auto request = parse_chat_request(body.view());
  CHECK(request.has_value());

  // Whatever the text looks like, it is text: nothing else in the request comes from it.
  ChatRequest expected;
  expected.model = "m";
  expected.messages.push_back({.role = "user", .content = request->messages.at(0).content});
  CHECK(*request == expected);

  const std::string& read_back = request->messages[0].content;
  CHECK(is_utf8(read_back));
  CHECK_EQ(read_back == text, is_utf8(text));
  return 0;
}
