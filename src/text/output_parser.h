#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"

namespace penstock::text {

/// A piece of an answer, told apart.
struct AnswerDelta {
  enum class Kind : std::uint8_t { kContent, kReasoning, kToolStart, kToolArguments };
  Kind kind = Kind::kContent;
  std::uint32_t tool_index = 0;  // kTool*: counts from 0
  std::string text;              // kToolStart: the function's name; kToolArguments: a piece of JSON
  std::string tool_id;           // kToolStart: the id the model gave, or empty
};

/// Reads an answer as it is written and tells content, reasoning and tool calls apart. Any split of
/// the same text gives the same answer (the joined deltas of each kind are equal). One sequence,
/// one thread.
class OutputParser {
 public:
  virtual ~OutputParser() = default;
  /// Appends what `text` made certain.
  virtual void feed(std::string_view text, std::vector<AnswerDelta>& out) = 0;
  /// The answer is over: appends what was held back. Nothing the model wrote is dropped: a tool
  /// call that never became one is content.
  virtual void finish(std::vector<AnswerDelta>& out) = 0;
};

/// Null for AnswerFormat::Kind::kPlain, whose text needs no reading.
Result<std::unique_ptr<OutputParser>> make_output_parser(const AnswerFormat& format);

}  // namespace penstock::text
