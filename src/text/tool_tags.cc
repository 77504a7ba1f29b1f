#include "text/tool_tags.h"

#include <fmt/format.h>
#include <json-schema-to-grammar.h>

#include <exception>
#include <list>

#include "text/literal_choice.h"

namespace penstock::text {
namespace {

std::string quoted(std::string_view text) { return common_json::make(std::string(text)).dump(); }

}  // namespace

std::string describe_tools(const std::vector<ToolText>& tools) {
  std::string text =
      "You can call functions. These are available, each with a JSON schema of its arguments:\n"
      "<tools>\n";
  for (const ToolText& tool : tools) {
    text += fmt::format(R"({{"name": {}, "description": {}, "parameters": {}}})", quoted(tool.name),
                        quoted(tool.description), tool.parameters.empty() ? "{}" : tool.parameters);
    text += '\n';
  }
  text += fmt::format(
      "</tools>\n"
      "To call a function, answer with nothing but its name and arguments, like this:\n"
      "{}\n{{\"name\": \"function_name\", \"arguments\": {{\"argument\": \"value\"}}}}\n{}\n"
      "If no function helps, answer in plain text.",
      kToolCallOpen, kToolCallClose);
  return text;
}

std::string spell_tool_call(const ToolCallText& call) {
  return fmt::format("{}\n{{\"name\": {}, \"arguments\": {}}}\n{}", kToolCallOpen,
                     quoted(call.name), call.arguments.empty() ? "{}" : call.arguments,
                     kToolCallClose);
}

std::string spell_tool_answer(const Message& message) {
  return fmt::format("<tool_response>\n{}\n</tool_response>", message.content);
}

Result<AnswerGrammar> tool_grammar(const std::vector<ToolText>& tools, Conversation::ToolMode mode,
                                   bool parallel) {
  AnswerGrammar grammar;
  const ToolText* current = nullptr;
  std::list<common_chat_schema_document> documents;  // the builder keeps references
  try {
    const std::string gbnf = build_grammar([&](const common_grammar_builder& builder) {
      std::string calls;
      for (std::size_t i = 0; i < tools.size(); ++i) {
        current = &tools[i];
        const std::string parameters(current->parameters.empty()
                                         ? R"({"type":"object","properties":{}})"
                                         : current->parameters);
        documents.push_back(common_chat_schema_from_json(common_json::parse(parameters)));
        const std::string arguments =
            builder.add_schema(fmt::format("tool-{}-arguments", i), *documents.back().root);
        calls += fmt::format(
            "{}{}", i == 0 ? "" : " | ",
            builder.add_rule(fmt::format("tool-{}", i),
                             gbnf_format_literal(fmt::format("{{\"name\": {}, \"arguments\": ",
                                                             quoted(current->name))) +
                                 " " + arguments + " " + gbnf_format_literal("}")));
      }
      const std::string call = builder.add_rule(
          "tool-call", gbnf_format_literal(fmt::format("{}\n", kToolCallOpen)) + " ( " + calls +
                           " ) " + gbnf_format_literal(fmt::format("\n{}", kToolCallClose)));
      builder.add_rule("root", parallel ? fmt::format("{} ( \"\\n\" {} )*", call, call) : call);
    });
    grammar.gbnf = factor_choices(gbnf);
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument,
                fmt::format("the parameters of function \"{}\" cannot be enforced: {}",
                            current == nullptr ? "" : current->name, problem.what()),
                "tools");
  }
  if (mode == Conversation::ToolMode::kAuto) {
    grammar.lazy = true;
    grammar.triggers.push_back({AnswerGrammar::Trigger::Kind::kWord, std::string(kToolCallOpen)});
  }
  return grammar;
}

}  // namespace penstock::text
