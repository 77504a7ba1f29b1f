#include "text/tool_tags.h"

#include <fmt/format.h>
#include <json-schema-to-grammar.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <list>
#include <set>

#include "text/literal_choice.h"

namespace penstock::text {
namespace {

std::string quoted(std::string_view text) { return common_json::make(std::string(text)).dump(); }

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> characters;
  while (!text.empty()) {
    std::size_t bytes = 1;
    while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80) ++bytes;
    characters.push_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return characters;
}

/// Adds rules for any text up to and with `close`, and returns the first one's name. There is one
/// for each number of its characters that what was read last may be the beginning of.
std::string add_thought(const common_grammar_builder& builder, std::string_view close) {
  const std::vector<std::string_view> tag = characters_of(close);
  const auto name = [](std::size_t read) { return fmt::format("thought-{}", read); };
  // How much of the tag has been read when `c` follows on its first `read` characters.
  const auto next = [&](std::size_t read, std::string_view c) {
    for (std::size_t length = read + 1; length > 0; --length) {
      const auto begin = tag.begin() + static_cast<std::ptrdiff_t>(read + 1 - length);
      if (tag[length - 1] == c &&
          std::equal(begin, tag.begin() + static_cast<std::ptrdiff_t>(read), tag.begin())) {
        return length;
      }
    }
    return std::size_t{0};
  };
  for (std::size_t read = 0; read < tag.size(); ++read) {
    std::string rule;
    std::string others;
    for (const std::string_view c : std::set(tag.begin(), tag.end())) {
      const std::size_t length = next(read, c);
      if (length == 0) continue;
      rule += gbnf_format_literal(std::string(c));
      rule += length == tag.size() ? " | " : fmt::format(" {} | ", name(length));
      if (c == "]" || c == "\\" || c == "-") others += '\\';
      others += c == "\n" ? "\\n" : c;
    }
    builder.add_rule(name(read), fmt::format("{}[^{}] {}", rule, others, name(0)));
  }
  return name(0);
}

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
                                   bool parallel, const ThoughtTags& thoughts) {
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
      std::string root = parallel ? fmt::format("{} ( \"\\n\" {} )*", call, call) : call;
      if (mode == Conversation::ToolMode::kRequired && !thoughts.close.empty()) {
        const std::string thought = add_thought(builder, thoughts.close);
        root = thoughts.begun ? fmt::format("{} {}", thought, root)
                              : fmt::format("( {} {} )? {}", gbnf_format_literal(thoughts.open),
                                            thought, root);
      }
      builder.add_rule("root", root);
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
