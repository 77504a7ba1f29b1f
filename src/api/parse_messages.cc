#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "api/internal/chat_fields.h"
#include "api/internal/field_table.h"
#include "api/internal/read_value.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};
constexpr std::string_view kRoleNames =
    "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";

// ---- content ----

/// One part of a content array. Its text may come before its type, so it is taken at once and
/// judged when the part is complete.
struct Part {
  std::string& content;
  bool is_first = true;
  std::string type;
  bool has_text = false;
};

void read_part_text(JsonReader& json, Part& part) {
  if (part.has_text) {
    json.fail("the part has a text already");
    return;
  }
  if (!part.is_first) part.content += '\n';
  part.has_text = append_string(json, part.content);
}

constexpr FieldTable kPartFields(std::to_array<Field<Part>>({
    {"type", [](JsonReader& j, Part& p) { read_string(j, p.type); }},
    {"text", read_part_text},
    {"refusal", read_part_text},  // what an assistant said instead of an answer
}));

void read_part(JsonReader& json, Part& part) {
  kPartFields.read_object(json, part);
  if (part.type.empty()) {
    json.fail_below("type", "missing, expected \"text\"");
  } else if (part.type != "text" && part.type != "refusal") {
    json.fail_below(
        "type",
        fmt::format("this server takes text only, got a part of type \"{}\"", shorten(part.type)),
        Code::kUnprocessable);
  } else if (!part.has_text) {
    json.fail_below(part.type, "missing, expected a string");
  }
}

void read_content(JsonReader& json, std::string& content) {
  if (json.type() == JsonType::kString) {
    read_string(json, content);
    return;
  }
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("a string, null or an array of text parts");
    return;
  }
  bool is_first = true;
  json.enter_array();
  while (json.next_element()) {
    Part part{content, is_first, {}};
    read_part(json, part);
    is_first = false;
  }
  if (is_first) json.fail("expected at least one part");
}

// ---- tool calls ----

struct Call {
  ToolCall& call;
  std::string type;
  bool has_function = false;
  bool has_arguments = false;
};

/// How deep the brackets outside of strings are nested; of any text.
std::size_t nesting(std::string_view json) {
  std::size_t depth = 0;
  std::size_t deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') in_string = !in_string;
    if (in_string) {
      i += c == '\\' ? 1 : 0;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

void read_arguments(JsonReader& json, Call& call) {
  if (json.type() == JsonType::kObject) {
    call.has_arguments = read_object_text(json, call.call.arguments);
  } else if (json.type() == JsonType::kString) {
    call.has_arguments = read_string(json, call.call.arguments);
    // Templates parse it, with a stack frame a level.
    if (call.has_arguments && nesting(call.call.arguments) > kJsonDepthMax) {
      json.fail(fmt::format("nested deeper than {} levels", kJsonDepthMax));
    }
  } else {
    json.expected_unseen("a string of JSON");
  }
}

void read_called_function(JsonReader& json, Call& call) {
  static constexpr FieldTable kFields(std::to_array<Field<Call>>({
      {"name", [](JsonReader& j, Call& c) { read_nonempty_string(j, c.call.name); }},
      {"arguments", read_arguments},
  }));
  kFields.read_object(json, call);
  call.has_function = true;
  if (call.call.name.empty()) json.fail_below("name", "missing, expected a function's name");
  if (!call.has_arguments) json.fail_below("arguments", "missing, expected a string of JSON");
}

void read_call_type(JsonReader& json, Call& call) {
  if (json.type() != JsonType::kString || json.string() != "function") {
    json.expected("\"function\"");
    return;
  }
  call.type = "function";
}

constexpr FieldTable kCallFields(std::to_array<Field<Call>>({
    {"id", [](JsonReader& j, Call& c) { read_nonempty_string(j, c.call.id); }},
    {"type", read_call_type},
    {"function", read_called_function},
}));

void read_tool_calls(JsonReader& json, std::vector<ToolCall>& calls) {
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("an array of tool calls");
    return;
  }
  json.enter_array();
  while (json.next_element()) {
    Call call{calls.emplace_back(), {}};
    kCallFields.read_object(json, call);
    if (call.call.id.empty()) json.fail_below("id", "missing, expected a string");
    if (call.type.empty()) json.fail_below("type", "missing, expected \"function\"");
    if (!call.has_function) {
      json.fail_below("function", "missing, expected an object with name and arguments");
    }
  }
}

// ---- one message ----

struct MessageState {
  ChatMessage& message;
  bool has_content = false;
};

void read_role(JsonReader& json, MessageState& state) {
  std::string& role = state.message.role;
  if (json.type() == JsonType::kString && !read_string(json, role)) return;
  if (role == "function") {
    json.fail("\"function\" is deprecated, use \"tool\" with tool_call_id");
  } else if (std::ranges::find(kRoles, role) == kRoles.end()) {
    json.expected(kRoleNames);
  }
}

constexpr FieldTable kMessageFields(std::to_array<Field<MessageState>>({
    {"role", read_role},
    {"content",
     [](JsonReader& j, MessageState& s) {
       read_content(j, s.message.content);
       s.has_content = true;
     }},
    {"name", [](JsonReader& j, MessageState& s) { read_string(j, s.message.name); }},
    {"reasoning_content",
     [](JsonReader& j, MessageState& s) { read_string(j, s.message.reasoning_content); }},
    {"tool_calls",
     [](JsonReader& j, MessageState& s) { read_tool_calls(j, s.message.tool_calls); }},
    {"tool_call_id",
     [](JsonReader& j, MessageState& s) { read_string(j, s.message.tool_call_id); }},
    {"function_call", [](JsonReader& j, MessageState&) { j.fail("deprecated, use tool_calls"); }},
    {"audio", [](JsonReader& j,
                 MessageState&) { j.fail("this server takes text only", Code::kUnprocessable); }},
}));

void check(JsonReader& json, const MessageState& state) {
  const ChatMessage& message = state.message;
  const bool is_assistant = message.role == "assistant";
  const bool is_tool = message.role == "tool";
  if (message.role.empty()) {
    json.fail_below("role", fmt::format("missing, expected {}", kRoleNames));
  }
  if (is_assistant && !state.has_content && message.tool_calls.empty()) {
    json.fail_below("content", "missing, an assistant message needs content or tool_calls");
  }
  if (!is_assistant && !state.has_content) {
    json.fail_below("content", "missing, expected a string or an array of text parts");
  }
  if (!is_assistant && !message.tool_calls.empty()) {
    json.fail_below("tool_calls", "only an assistant message has them");
  }
  if (is_tool && message.tool_call_id.empty()) {
    json.fail_below("tool_call_id", "missing, expected the id of the call that this answers");
  }
  if (!is_tool && !message.tool_call_id.empty()) {
    json.fail_below("tool_call_id", "only a tool message has one");
  }
}

}  // namespace

void read_messages(JsonReader& json, std::vector<ChatMessage>& messages) {
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("an array of messages");
    return;
  }
  json.enter_array();
  while (json.next_element()) {
    if (!room_for_one(json, kMessagesMax)) return;
    MessageState state{messages.emplace_back()};
    kMessageFields.read_object(json, state);
    check(json, state);
  }
  if (messages.empty()) json.fail("expected at least one message");
}

}  // namespace penstock::api
