#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>

#include "api/internal/chat_fields.h"
#include "api/internal/field_table.h"
#include "api/internal/read_value.h"

namespace penstock::api {
namespace {

bool is_function_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= kFunctionNameBytesMax &&
         std::ranges::all_of(name, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '.' || c == '-';
         });
}

bool read_function_name(JsonReader& json, std::string& out) {
  if (json.type() == JsonType::kString && !read_string(json, out)) return false;
  return is_function_name(out) ||
         json.expected(
             fmt::format("1 to {} letters, digits, '_', '.' or '-'", kFunctionNameBytesMax));
}

/// For the `type` of a tool and of a tool choice: there is only one.
void read_function_type(JsonReader& json, bool& has_type) {
  static constexpr std::array<std::string_view, 1> kNames = {"function"};
  std::size_t choice = 0;
  has_type = read_choice(json, kNames, choice);
}

constexpr std::string_view kMissingType = "missing, expected \"function\"";
constexpr std::string_view kMissingFunction = "missing, expected an object with a name";
constexpr std::string_view kMissingName = "missing, expected a function's name";

// ---- tools ----

struct ToolState {
  Tool& tool;
  bool strict = false;  // a call's arguments are always held to their schema
  bool has_type = false;
  bool has_function = false;
};

void read_tool_function(JsonReader& json, ToolState& state) {
  using State = ToolState;
  static constexpr FieldTable kFields(std::to_array<Field<State>>({
      {"name", [](JsonReader& j, State& s) { read_function_name(j, s.tool.name); }},
      {"description", [](JsonReader& j, State& s) { read_string(j, s.tool.description); }},
      {"parameters", [](JsonReader& j, State& s) { read_object_text(j, s.tool.parameters); }},
      {"strict", [](JsonReader& j, State& s) { read_bool(j, s.strict); }},
  }));
  kFields.read_object(json, state);
  state.has_function = true;
  if (state.tool.name.empty()) json.fail_below("name", kMissingName);
}

constexpr FieldTable kToolFields(std::to_array<Field<ToolState>>({
    {"type", [](JsonReader& j, ToolState& s) { read_function_type(j, s.has_type); }},
    {"function", read_tool_function},
}));

void check_names_differ(JsonReader& json, const std::vector<Tool>& tools) {
  std::unordered_map<std::string_view, std::size_t> first_use;
  for (std::size_t i = 0; i < tools.size(); ++i) {
    const auto [earlier, is_new] = first_use.emplace(tools[i].name, i);
    if (!is_new) {
      json.fail_below(
          fmt::format("[{}].function.name", i),
          fmt::format("\"{}\" is the name of tools[{}] already", tools[i].name, earlier->second));
      return;
    }
  }
}

// ---- tool choice ----

struct ChoiceState {
  ToolChoice& choice;
  bool has_type = false;
  bool has_function = false;
};

void read_chosen_function(JsonReader& json, ChoiceState& state) {
  static constexpr FieldTable kFields(std::to_array<Field<ToolChoice>>({
      {"name", [](JsonReader& j, ToolChoice& c) { read_function_name(j, c.function); }},
  }));
  kFields.read_object(json, state.choice);
  state.has_function = true;
  if (state.choice.function.empty()) json.fail_below("name", kMissingName);
}

constexpr FieldTable kChoiceFields(std::to_array<Field<ChoiceState>>({
    {"type", [](JsonReader& j, ChoiceState& s) { read_function_type(j, s.has_type); }},
    {"function", read_chosen_function},
}));

}  // namespace

void read_tools(JsonReader& json, std::vector<Tool>& tools) {
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("an array of tools");
    return;
  }
  json.enter_array();
  while (json.next_element()) {
    if (!room_for_one(json, kToolsMax)) return;
    ToolState state{tools.emplace_back()};
    kToolFields.read_object(json, state);
    if (!state.has_type) json.fail_below("type", kMissingType);
    if (!state.has_function) json.fail_below("function", kMissingFunction);
  }
  if (json.ok()) check_names_differ(json, tools);
}

void read_tool_choice(JsonReader& json, ToolChoice& choice) {
  if (json.type() != JsonType::kObject) {
    // In the order of ToolChoice::Mode.
    static constexpr std::array<std::string_view, 3> kNames = {"auto", "none", "required"};
    std::size_t mode = 0;
    if (json.type() != JsonType::kString) {
      json.expected("\"auto\", \"none\", \"required\" or an object that names a function");
    } else if (read_choice(json, kNames, mode)) {
      choice.mode = static_cast<ToolChoice::Mode>(mode);
    }
    return;
  }
  choice.mode = ToolChoice::Mode::kFunction;
  ChoiceState state{choice};
  kChoiceFields.read_object(json, state);
  if (!state.has_type) json.fail_below("type", kMissingType);
  if (!state.has_function) json.fail_below("function", kMissingFunction);
}

void check_tool_choice(JsonReader& json, const ToolChoice& choice, const std::vector<Tool>& tools) {
  const bool needs_tools =
      choice.mode == ToolChoice::Mode::kRequired || choice.mode == ToolChoice::Mode::kFunction;
  if (needs_tools && tools.empty()) {
    json.fail_below("tool_choice", "only allowed together with tools");
    return;
  }
  if (choice.mode == ToolChoice::Mode::kFunction &&
      std::ranges::find(tools, choice.function, &Tool::name) == tools.end()) {
    json.fail_below("tool_choice.function.name",
                    fmt::format("no tool is called \"{}\"", choice.function));
  }
}

}  // namespace penstock::api
