#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"

/// The way of calling tools that we teach a model whose template knows none: the tools are listed
/// in the system message, a call is a JSON object between tags, and a grammar holds the model to
/// it. (The tags are those most open models were tuned on.)
namespace penstock::text {

inline constexpr std::string_view kToolCallOpen = "<tool_call>";
inline constexpr std::string_view kToolCallClose = "</tool_call>";

/// What the system message says of the tools.
std::string describe_tools(const std::vector<ToolText>& tools);

/// An earlier call or answer, as text of its turn.
std::string spell_tool_call(const ToolCallText& call);
std::string spell_tool_answer(const Message& message);

/// Calls of exactly these tools with arguments that match their schemas; binds from the first tag
/// on (kAuto) or from the start, but for a thought (kRequired). Fails with kInvalidArgument when a
/// schema is beyond what the converter knows.
Result<AnswerGrammar> tool_grammar(const std::vector<ToolText>& tools, Conversation::ToolMode mode,
                                   bool parallel, const ThoughtTags& thoughts = {});

}  // namespace penstock::text
