#include "text/output_parser.h"

#include <chat.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <exception>
#include <utility>

#include "base/log.h"
#include "text/tool_tags.h"

namespace penstock::text {
namespace {

void append_content(std::string_view text, std::vector<AnswerDelta>& out) {
  if (text.empty()) return;
  if (!out.empty() && out.back().kind == AnswerDelta::Kind::kContent) {
    out.back().text += text;
    return;
  }
  out.push_back({.kind = AnswerDelta::Kind::kContent, .text = std::string(text)});
}

std::size_t skip_space(std::string_view text, std::size_t i) {
  while (i < text.size() && std::isspace(static_cast<unsigned char>(text[i])) != 0) ++i;
  return i;
}

/// How much of the end of `text` may be the beginning of `tag`.
std::size_t begun_tag(std::string_view text, std::string_view tag) {
  std::size_t bytes = std::min(text.size(), tag.size() - 1);
  while (bytes > 0 && text.substr(text.size() - bytes) != tag.substr(0, bytes)) --bytes;
  return bytes;
}

/// Follows one JSON value byte by byte to its end.
class JsonValueEnd {
 public:
  /// True once `c` closed an object or array opened before.
  bool take(char c) {
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
      return false;
    }
    if (c == '"') in_string_ = true;
    if (c == '{' || c == '[') ++depth_;
    if (c == '}' || c == ']') return --depth_ == 0;
    return false;
  }

 private:
  int depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

/// Our own tags (tool_tags.h): <tool_call> {"name": N, "arguments": {...}} </tool_call>.
class ToolTagParser final : public OutputParser {
 public:
  void feed(std::string_view text, std::vector<AnswerDelta>& out) override {
    held_ += text;
    while (step(out)) {
    }
  }

  void finish(std::vector<AnswerDelta>& out) override {
    if (state_ == State::kContent || state_ == State::kHead) {
      // In kHead nothing of the call was told yet: it is content, tag included.
      append_between((state_ == State::kHead ? std::string(kToolCallOpen) : std::string()) + held_,
                     out);
    } else if (state_ == State::kArguments && !held_.empty()) {
      out.push_back(
          {.kind = AnswerDelta::Kind::kToolArguments, .tool_index = index_, .text = held_});
    }
    held_.clear();
  }

 private:
  enum class State : std::uint8_t { kContent, kHead, kArguments, kTail };

  /// Does what held_ allows; false when more text is needed.
  bool step(std::vector<AnswerDelta>& out) {
    switch (state_) {
      case State::kContent: return step_content(out);
      case State::kHead: return step_head(out);
      case State::kArguments: return step_arguments(out);
      case State::kTail: return step_tail();
    }
    return false;
  }

  bool step_content(std::vector<AnswerDelta>& out) {
    const std::size_t tag = held_.find(kToolCallOpen);
    if (tag != std::string::npos) {
      append_between(std::string_view(held_).substr(0, tag), out);
      held_.erase(0, tag + kToolCallOpen.size());
      state_ = State::kHead;
      return true;
    }
    const std::size_t certain = held_.size() - begun_tag(held_, kToolCallOpen);
    if (index_next_ > 0 && skip_space(held_, 0) >= certain) return false;
    append_content(std::string_view(held_).substr(0, certain), out);
    held_.erase(0, certain);
    return false;
  }

  /// White space after a call is content only if content follows.
  void append_between(std::string_view text, std::vector<AnswerDelta>& out) const {
    if (index_next_ > 0 && skip_space(text, 0) == text.size()) return;
    append_content(text, out);
  }

  /// {"name": "...", "arguments": up to the value. Returns false while incomplete; what can never
  /// become a call goes back to content.
  bool step_head(std::vector<AnswerDelta>& out) {
    std::size_t i = skip_space(held_, 0);
    std::string name;
    const Match head = match_head(i, name);
    if (head == Match::kMore) return false;
    if (head == Match::kNo) {
      append_content(kToolCallOpen, out);
      state_ = State::kContent;
      return true;
    }
    index_ = index_next_++;
    out.push_back({.kind = AnswerDelta::Kind::kToolStart, .tool_index = index_, .text = name});
    held_.erase(0, i);
    value_end_ = JsonValueEnd();
    state_ = State::kArguments;
    return true;
  }

  enum class Match : std::uint8_t { kYes, kNo, kMore };

  Match match_head(std::size_t& i, std::string& name) const {
    for (const std::string_view part : {"{", "\"name\"", ":"}) {
      const Match m = match(part, i);
      if (m != Match::kYes) return m;
    }
    i = skip_space(held_, i);
    if (i >= held_.size()) return Match::kMore;
    if (held_[i] != '"') return Match::kNo;
    for (++i; i < held_.size() && held_[i] != '"'; ++i) {
      if (held_[i] == '\\') return Match::kNo;  // no function name needs an escape
      name += held_[i];
    }
    if (i >= held_.size()) return Match::kMore;
    ++i;
    for (const std::string_view part : {",", "\"arguments\"", ":"}) {
      const Match m = match(part, i);
      if (m != Match::kYes) return m;
    }
    i = skip_space(held_, i);
    if (i >= held_.size()) return Match::kMore;
    return held_[i] == '{' ? Match::kYes : Match::kNo;
  }

  Match match(std::string_view part, std::size_t& i) const {
    i = skip_space(held_, i);
    const std::string_view rest = std::string_view(held_).substr(i);
    if (rest.size() < part.size()) return part.starts_with(rest) ? Match::kMore : Match::kNo;
    if (!rest.starts_with(part)) return Match::kNo;
    i += part.size();
    return Match::kYes;
  }

  bool step_arguments(std::vector<AnswerDelta>& out) {
    std::size_t i = 0;
    bool ended = false;
    while (i < held_.size() && !ended) ended = value_end_.take(held_[i++]);
    if (i > 0) {
      out.push_back({.kind = AnswerDelta::Kind::kToolArguments,
                     .tool_index = index_,
                     .text = held_.substr(0, i)});
      held_.erase(0, i);
    }
    if (!ended) return false;
    state_ = State::kTail;
    return true;
  }

  bool step_tail() {
    const std::size_t tag = held_.find(kToolCallClose);
    if (tag == std::string::npos) return false;
    held_.erase(0, tag + kToolCallClose.size());
    state_ = State::kContent;
    return true;
  }

  State state_ = State::kContent;
  std::string held_;
  std::uint32_t index_ = 0;
  std::uint32_t index_next_ = 0;
  JsonValueEnd value_end_;
};

/// A thought between its tags, then our own tags.
class ThoughtParser final : public OutputParser {
 public:
  explicit ThoughtParser(ThoughtTags tags)
      : tags_(std::move(tags)), state_(tags_.begun ? State::kThought : State::kStart) {}

  void feed(std::string_view text, std::vector<AnswerDelta>& out) override {
    held_ += text;
    if (state_ == State::kStart) {
      const std::size_t start = skip_space(held_, 0);
      const std::string_view rest = std::string_view(held_).substr(start);
      if (std::string_view(tags_.open).starts_with(rest) && rest.size() < tags_.open.size()) return;
      const bool thinks = rest.starts_with(tags_.open);
      if (thinks) held_.erase(0, start + tags_.open.size());
      state_ = thinks ? State::kThought : State::kAnswer;
    }
    if (state_ == State::kThought) {
      const std::size_t close = held_.find(tags_.close);
      const std::size_t call = tags_.ends_with_call ? held_.find(kToolCallOpen) : std::string::npos;
      const std::size_t end = std::min(close, call);
      const bool ends = end != std::string::npos;
      append_thought(ends ? end : held_.size() - begun_end(), out);
      if (!ends) return;
      if (end == close) held_.erase(0, tags_.close.size());
      state_ = State::kAnswer;
    }
    answer_.feed(std::exchange(held_, {}), out);
  }

  void finish(std::vector<AnswerDelta>& out) override {
    if (state_ == State::kThought) append_thought(held_.size(), out);
    answer_.feed(std::exchange(held_, {}), out);
    answer_.finish(out);
  }

 private:
  enum class State : std::uint8_t { kStart, kThought, kAnswer };

  /// How much of what is held may be the beginning of what ends the thought.
  [[nodiscard]] std::size_t begun_end() const {
    const std::size_t call = tags_.ends_with_call ? begun_tag(held_, kToolCallOpen) : 0;
    return std::max(call, begun_tag(held_, tags_.close));
  }

  void append_thought(std::size_t bytes, std::vector<AnswerDelta>& out) {
    if (bytes == 0) return;
    out.push_back({.kind = AnswerDelta::Kind::kReasoning, .text = held_.substr(0, bytes)});
    held_.erase(0, bytes);
  }

  ThoughtTags tags_;
  State state_;
  std::string held_;
  ToolTagParser answer_;
};

/// llama.cpp's parser, derived from the template. It reads the whole answer anew each time.
class TemplateParser final : public OutputParser {
 public:
  explicit TemplateParser(const AnswerFormat& format) {
    params_.format = static_cast<common_chat_format>(format.template_format);
    params_.reasoning_format = COMMON_REASONING_FORMAT_DEEPSEEK;
    params_.generation_prompt = format.generation_prompt;
    params_.parse_tool_calls = format.parse_tool_calls;
    if (!format.parser.empty()) params_.parser.load(format.parser);
    if (format.continues_message) told_ = common_chat_parse("", true, params_);
  }

  void feed(std::string_view text, std::vector<AnswerDelta>& out) override {
    text_ += text;
    if (text_.size() < next_bytes_) return;
    next_bytes_ = text_.size() + text_.size() / kPartOfAnswer;
    parse(true, out);
  }

  void finish(std::vector<AnswerDelta>& out) override {
    if (parse(false, out)) return;
    // The answer breaks the template's own rules (cut off, or no grammar bound): tell the rest of
    // what the lenient reading saw, and the raw text if it saw nothing at all.
    parse(true, out);
    if (told_.content.empty() && told_.tool_calls.empty() && told_.reasoning_content.empty()) {
      append_content(text_, out);
    }
  }

 private:
  bool parse(bool is_partial, std::vector<AnswerDelta>& out) {
    try {
      common_chat_msg now = common_chat_parse(text_, is_partial, params_);
      if (now.empty()) return true;
      for (const common_chat_msg_diff& diff : common_chat_msg_diff::compute_diffs(told_, now)) {
        tell(diff, out);
      }
      told_ = std::move(now);
      return true;
    } catch (const std::exception& problem) {
      log::debug("answer of {} bytes does not parse (partial: {})", text_.size(), is_partial);
      return false;
    }
  }

  static void tell(const common_chat_msg_diff& diff, std::vector<AnswerDelta>& out) {
    using Kind = AnswerDelta::Kind;
    if (!diff.reasoning_content_delta.empty()) {
      out.push_back({.kind = Kind::kReasoning, .text = diff.reasoning_content_delta});
    }
    append_content(diff.content_delta, out);
    if (diff.tool_call_index == std::string::npos) return;
    const auto index = static_cast<std::uint32_t>(diff.tool_call_index);
    const common_chat_tool_call& call = diff.tool_call_delta;
    if (!call.name.empty()) {
      out.push_back(
          {.kind = Kind::kToolStart, .tool_index = index, .text = call.name, .tool_id = call.id});
    }
    if (!call.arguments.empty()) {
      out.push_back({.kind = Kind::kToolArguments, .tool_index = index, .text = call.arguments});
    }
  }

  /// A long answer is read again only when it has grown by this part, so that reading it costs
  /// kPartOfAnswer * log(length) times its length instead of its square.
  static constexpr std::size_t kPartOfAnswer = 256;

  common_chat_parser_params params_;
  std::string text_;
  std::size_t next_bytes_ = 0;
  common_chat_msg told_;
};

}  // namespace

Result<std::unique_ptr<OutputParser>> make_output_parser(const AnswerFormat& format) {
  switch (format.kind) {
    case AnswerFormat::Kind::kPlain: return nullptr;
    case AnswerFormat::Kind::kToolTags:
      if (!format.thoughts.close.empty()) return std::make_unique<ThoughtParser>(format.thoughts);
      return std::make_unique<ToolTagParser>();
    case AnswerFormat::Kind::kTemplate: try { return std::make_unique<TemplateParser>(format);
      } catch (const std::exception& problem) {
        return fail(Code::kInternal,
                    fmt::format("the template's answer parser cannot be used: {}", problem.what()));
      }
  }
  return nullptr;
}

}  // namespace penstock::text
