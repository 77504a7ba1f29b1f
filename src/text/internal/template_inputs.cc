#include "text/internal/template_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <random>

#include "text/constraint_error.h"
#include "text/constraint_limits.h"
#include "text/schema_refs.h"
#include "text/tool_tags.h"

namespace penstock::text {
namespace {

common_chat_tool_choice llama_tool_choice(Conversation::ToolMode mode) {
  switch (mode) {
    case Conversation::ToolMode::kAuto: return COMMON_CHAT_TOOL_CHOICE_AUTO;
    case Conversation::ToolMode::kNone: return COMMON_CHAT_TOOL_CHOICE_NONE;
    case Conversation::ToolMode::kRequired: return COMMON_CHAT_TOOL_CHOICE_REQUIRED;
  }
  return COMMON_CHAT_TOOL_CHOICE_AUTO;
}

/// `content` with split_mark() inside every special token's spelling.
std::string with_split_marks(const Tokenizer& tokenizer, std::string_view content) {
  if (!tokenizer.holds_special(content)) return std::string(content);
  std::string out;
  for (std::size_t i = 0; i < content.size(); ++i) {
    out += content[i];
    const std::size_t length = tokenizer.special_length(content, i);
    if (length > 1) out += split_mark();
  }
  return out;
}

/// The same of a tool call's arguments. JSON may spell a character by its number, which the
/// template undoes; then they are spelled plainly first.
std::string arguments_with_split_marks(const Tokenizer& tokenizer, std::string_view arguments) {
  if (arguments.find("\\u") == std::string_view::npos) {
    return with_split_marks(tokenizer, arguments);
  }
  try {
    return with_split_marks(tokenizer, common_json::parse(std::string(arguments)).dump());
  } catch (const std::exception&) {  // no JSON: the template sees it as text
    return with_split_marks(tokenizer, arguments);
  }
}

/// Of a function that is described without any: llama.cpp would refuse an empty text.
const std::string kNoParameters = R"({"type":"object","properties":{}})";

}  // namespace

const std::string& split_mark() {
  static const std::string mark = [] {
    std::random_device random;
    return fmt::format("\xEE\x83\xBF{:08x}{:08x}\xEE\x83\xBF", random(), random());
  }();
  return mark;
}

Result<Constraints> check_constraints(const Conversation& c, ConstraintCache& cache) {
  Constraints checked;
  RefRules refs;
  std::size_t schema_bytes = 0;
  for (const ToolText& tool : c.tools) schema_bytes += tool.parameters.size();
  if (schema_bytes > kToolSchemasBytesMax) {
    return too_much("bytes of parameters together", kToolSchemasBytesMax, "tools");
  }
  std::size_t grammar_bytes = 0;
  std::size_t steps = 0;
  for (std::size_t i = 0; i < c.tools.size(); ++i) {
    const Result<Constraint> fine = cache.find(c.tools[i].parameters, "tools");
    if (!fine) return std::unexpected(fine.error());
    grammar_bytes += fine->gbnf.size();
    if (grammar_bytes > kToolGrammarsBytesMax) {
      return too_much("bytes of grammars together", kToolGrammarsBytesMax, "tools");
    }
    steps += fine->steps;
    if (steps > kToolStepsMax) {
      return too_much("steps needed together to make and check their grammars", kToolStepsMax,
                      "tools");
    }
    // All tools become one grammar, where definitions of one name are one rule.
    std::string& parameters = checked.tool_parameters.emplace_back(fine->schema);
    if (refs.add(fine->refs)) continue;
    parameters = with_distinct_refs(parameters, fmt::format("T{}V", i));
    if (!refs.add(RefRules::of(parameters))) {
      return fail(Code::kInvalidArgument, "tools: definitions of several tools have similar names",
                  "tools");
    }
  }
  if (!c.grammar.empty()) {
    if (Result<void> fine = check_gbnf(c.grammar); !fine) return std::unexpected(fine.error());
    checked.gbnf = c.grammar;
    return checked;
  }
  const Result<Constraint> schema = cache.find(c.json_schema, "response_format.json_schema.schema");
  if (!schema) return std::unexpected(schema.error());
  checked.schema = schema->schema;
  checked.gbnf = schema->gbnf;
  return checked;
}

TemplateInputs template_inputs(const Conversation& c, std::span<const std::string> parameters,
                               const Tokenizer& tokenizer, bool knows_tools) {
  TemplateInputs made;
  common_chat_templates_inputs& in = made.inputs;
  const bool uses_tools = !c.tools.empty() || std::ranges::any_of(c.messages, [](const Message& m) {
    return !m.tool_calls.empty() || m.role == "tool";
  });
  made.own_tools = uses_tools && !knows_tools;
  for (const Message& m : c.messages) {
    common_chat_msg message;
    message.role = m.role;
    message.content = with_split_marks(tokenizer, m.content);
    message.reasoning_content = with_split_marks(tokenizer, m.reasoning);
    message.tool_name = with_split_marks(tokenizer, m.name);
    message.tool_call_id = with_split_marks(tokenizer, m.tool_call_id);
    if (!made.own_tools) {
      for (const ToolCallText& call : m.tool_calls) {
        message.tool_calls.push_back({with_split_marks(tokenizer, call.name),
                                      arguments_with_split_marks(tokenizer, call.arguments),
                                      with_split_marks(tokenizer, call.id)});
      }
    } else if (m.role == "tool") {
      message.role = "user";
      message.content = with_split_marks(tokenizer, spell_tool_answer(m));
      message.tool_name.clear();
      message.tool_call_id.clear();
    } else {
      for (const ToolCallText& call : m.tool_calls) {
        if (!message.content.empty()) message.content += '\n';
        message.content += with_split_marks(tokenizer, spell_tool_call(call));
      }
    }
    in.messages.push_back(std::move(message));
  }
  if (made.own_tools && !c.tools.empty() && c.tool_mode != Conversation::ToolMode::kNone) {
    const std::string tools = with_split_marks(tokenizer, describe_tools(c.tools));
    if (!in.messages.empty() &&
        (in.messages[0].role == "system" || in.messages[0].role == "developer")) {
      in.messages[0].content += "\n\n" + tools;
    } else {
      common_chat_msg system;
      system.role = "system";
      system.content = tools;
      in.messages.insert(in.messages.begin(), std::move(system));
    }
  }
  if (!made.own_tools) {
    for (std::size_t i = 0; i < c.tools.size(); ++i) {
      const ToolText& t = c.tools[i];
      // Name and parameters also make the grammar, so they stay as they are.
      in.tools.push_back({std::string(t.name), with_split_marks(tokenizer, t.description),
                          parameters[i].empty() ? kNoParameters : parameters[i]});
    }
    in.tool_choice = llama_tool_choice(c.tool_mode);
    in.parallel_tool_calls = c.parallel_tool_calls;
  }
  for (const auto& [name, json] : c.template_kwargs) {
    in.chat_template_kwargs[std::string(name)] = std::string(json);
    if (name == "enable_thinking") in.enable_thinking = json != "false";
  }
  in.add_generation_prompt = c.add_generation_prompt;
  if (c.continue_final_message) in.continue_final_message = COMMON_CHAT_CONTINUATION_AUTO;
  in.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
  return made;
}

}  // namespace penstock::text
