#pragma once

#include <chat.h>

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"
#include "text/constraint_cache.h"
#include "text/tokenizer.h"

/// What chat_template.cc gives to llama.cpp's templates. Any thread.
namespace penstock::text {

/// Stands inside the spelling of every special token in untrusted text, so that it is not
/// recognised; taken out again after rendering. Random, so that nobody can write it into a message.
[[nodiscard]] const std::string& split_mark();

struct Constraints {
  std::string schema;  // of the answer, as llama.cpp is to see it, or empty
  std::string gbnf;    // of the answer, by its schema or the client's own; or empty
  std::vector<std::string> tool_parameters;  // schemas, as llama.cpp is to see them
};

/// Before anything of llama.cpp's sees what the client wants to be enforced: the grammar of its
/// schema, or its own, or an empty one. What the tools of one request may cost is bounded together.
/// Grammars that llama.cpp makes for tool calls are not looked
/// at as a whole: those of some templates are too intricate for check_gbnf() to follow, and all
/// that a client puts into them are the tools' schemas.
[[nodiscard]] Result<Constraints> check_constraints(const Conversation& c, ConstraintCache& cache);

struct TemplateInputs {
  common_chat_templates_inputs inputs;
  bool own_tools = false;  // tools are taught by tool_tags, not by the template
};

/// `parameters`: of the tools, as they passed check_constraints(). `knows_tools`: the template
/// does.
[[nodiscard]] TemplateInputs template_inputs(const Conversation& c,
                                             std::span<const std::string> parameters,
                                             const Tokenizer& tokenizer, bool knows_tools);

}  // namespace penstock::text
