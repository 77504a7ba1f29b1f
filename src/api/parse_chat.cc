#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "api/internal/chat_fields.h"
#include "api/internal/generation_fields.h"
#include "api/internal/read_value.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

constexpr std::uint32_t kTopLogprobsMax = 20;

struct ChatState : GenerationState {
  ChatRequest& request;
  bool logprobs = false;
  std::optional<std::uint32_t> top_logprobs;
  std::optional<std::uint32_t> max_completion_tokens;
  std::optional<bool> add_generation_prompt;
  std::string_view reasoning_effort;
  std::string schema;  // by another name than response_format
};

using KeywordArguments = std::vector<std::pair<std::string, std::string>>;

bool has_keyword(const KeywordArguments& arguments, std::string_view name) {
  return std::ranges::find(arguments, name, &KeywordArguments::value_type::first) !=
         arguments.end();
}

/// What a template is given of the request itself: an argument of that name would take its place,
/// past all checks of messages.
constexpr std::array<std::string_view, 5> kTemplateOwn = {
    "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"};

void read_template_kwargs(JsonReader& json, ChatState& state) {
  if (json.type() != JsonType::kObject) {
    json.expected_unseen("an object");
    return;
  }
  KeywordArguments& arguments = state.request.template_kwargs;
  json.enter_object();
  std::string_view key;
  while (json.next_field(key)) {
    if (has_keyword(arguments, key)) {
      json.fail("given more than once");
    } else if (std::ranges::find(kTemplateOwn, key) != kTemplateOwn.end()) {
      json.fail("set from the request itself, it cannot be given here");
    } else if (arguments.size() == kTemplateKwargsMax) {
      json.fail(fmt::format("more than {} entries", kTemplateKwargsMax));
    } else {
      arguments.emplace_back(key, json.raw());
    }
  }
}

void read_reasoning_effort(JsonReader& json, ChatState& state) {
  static constexpr std::array<std::string_view, 6> kNames = {"none",   "minimal", "low",
                                                             "medium", "high",    "xhigh"};
  std::size_t choice = 0;
  if (read_choice(json, kNames, choice)) state.reasoning_effort = kNames[choice];
}

void read_modalities(JsonReader& json, ChatState&) {
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("an array with \"text\"");
    return;
  }
  json.enter_array();
  while (json.next_element()) {
    if (json.type() != JsonType::kString) {
      json.expected("\"text\"");
    } else if (json.string() != "text") {
      json.fail("this server answers in text only", Code::kUnprocessable);
    }
  }
}

/// json_schema as llama-server takes it, guided_json as vLLM does.
void read_schema(JsonReader& json, ChatState& state) {
  if (!state.schema.empty()) {
    json.fail("json_schema and guided_json are the same, give one of the two");
    return;
  }
  read_object_text(json, state.schema);
}

void read_max_tokens(JsonReader& json, ChatState& state) {
  read_int(json, 1, kIntMax, state.request.max_tokens.emplace());
}

void read_max_completion_tokens(JsonReader& json, ChatState& state) {
  read_int(json, 1, kIntMax, state.max_completion_tokens.emplace());
}

constexpr FieldTable kChatFields(std::to_array<Field<ChatState>>({
    {"messages", [](JsonReader& j, ChatState& s) { read_messages(j, s.request.messages); }},
    {"tools", [](JsonReader& j, ChatState& s) { read_tools(j, s.request.tools); }},
    {"tool_choice",
     [](JsonReader& j, ChatState& s) { read_tool_choice(j, s.request.tool_choice); }},
    {"parallel_tool_calls",
     [](JsonReader& j, ChatState& s) { read_bool(j, s.request.parallel_tool_calls); }},
    {"response_format",
     [](JsonReader& j, ChatState& s) { read_response_format(j, s.request.response_format); }},
    {"json_schema", read_schema},
    {"guided_json", read_schema},
    {"max_tokens", read_max_tokens},
    {"max_completion_tokens", read_max_completion_tokens},
    {"logprobs", [](JsonReader& j, ChatState& s) { read_bool(j, s.logprobs); }},
    {"top_logprobs",
     [](JsonReader& j, ChatState& s) {
       read_int(j, 0, kTopLogprobsMax, s.top_logprobs.emplace());
     }},
    {"chat_template_kwargs", read_template_kwargs},
    {"reasoning_effort", read_reasoning_effort},
    {"add_generation_prompt",
     [](JsonReader& j, ChatState& s) { read_bool(j, s.add_generation_prompt.emplace()); }},
    {"continue_final_message",
     [](JsonReader& j, ChatState& s) { read_bool(j, s.request.continue_final_message); }},
    {"modalities", read_modalities},
    {"audio", [](JsonReader& j,
                 ChatState&) { j.fail("this server answers in text only", Code::kUnprocessable); }},
    {"web_search_options",
     [](JsonReader& j, ChatState&) {
       j.fail("this server does not search the web", Code::kUnprocessable);
     }},
    {"functions", [](JsonReader& j, ChatState&) { j.fail("deprecated, use tools"); }},
    {"function_call", [](JsonReader& j, ChatState&) { j.fail("deprecated, use tool_choice"); }},
}));

/// Brings what several fields say together into the request.
void settle(JsonReader& json, ChatState& state) {
  ChatRequest& request = state.request;
  if (!state.schema.empty()) {
    if (request.response_format.kind != ResponseFormat::Kind::kText) {
      json.fail_below("response_format", "cannot be combined with json_schema or guided_json");
    }
    request.response_format = {.kind = ResponseFormat::Kind::kJsonSchema,
                               .schema = std::move(state.schema)};
  }
  if (state.max_completion_tokens) request.max_tokens = state.max_completion_tokens;
  if (state.logprobs) request.top_logprobs = state.top_logprobs.value_or(0);
  request.add_generation_prompt =
      state.add_generation_prompt.value_or(!request.continue_final_message);
  // What the template's own arguments say is more specific.
  if (!state.reasoning_effort.empty() &&
      !has_keyword(request.template_kwargs, "reasoning_effort")) {
    request.template_kwargs.emplace_back("reasoning_effort",
                                         fmt::format("\"{}\"", state.reasoning_effort));
  }
}

void check(JsonReader& json, const ChatState& state) {
  const ChatRequest& request = state.request;
  if (request.messages.empty()) {
    json.fail_below("messages", "missing, expected at least one message");
    return;
  }
  check_tool_choice(json, request.tool_choice, request.tools);
  if (state.top_logprobs && !state.logprobs) {
    json.fail_below("top_logprobs", "only allowed when logprobs is true");
  }
  if (!request.grammar.empty() && request.response_format.kind != ResponseFormat::Kind::kText) {
    json.fail_below("grammar", "cannot be combined with a response_format other than text");
  }
  if (request.continue_final_message && request.add_generation_prompt) {
    json.fail_below("add_generation_prompt", "must be false when continue_final_message is true");
  }
  if (request.continue_final_message && request.messages.back().role != "assistant") {
    json.fail_below("continue_final_message", "the last message must be an assistant's");
  }
}

}  // namespace

Result<ChatRequest> parse_chat_request(std::string_view body) {
  ChatRequest request;
  JsonReader json(body);
  ChatState state{{request}, request};
  FieldsSeen seen = 0;
  std::string_view key;
  while (json.next_field(key)) {
    if (kChatFields.read(json, key, state, seen) || read_generation_field(json, key, state))
      continue;
    note_unknown_field(key, request.unknown_fields);
  }
  settle(json, state);
  finish_generation(json, state);
  check(json, state);
  if (!json.ok()) return std::unexpected(json.take_error());
  return request;
}

}  // namespace penstock::api
