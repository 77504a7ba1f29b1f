#include "text/chat_template.h"

#include <chat.h>
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <exception>
#include <optional>

#include "base/log.h"
#include "text/internal/template_inputs.h"
#include "text/literal_choice.h"
#include "text/schema_shape.h"
#include "text/template_code.h"
#include "text/tool_tags.h"

namespace penstock::text {
namespace {

std::string placeholder(std::size_t i) { return fmt::format("PENSTOCKcontent{}PLACEHOLDER", i); }

AnswerGrammar grammar_from(const common_chat_params& params) {
  AnswerGrammar grammar;
  grammar.gbnf = factor_choices(params.grammar);
  grammar.lazy = params.grammar_lazy;
  grammar.preserved_tokens = params.preserved_tokens;
  using Kind = AnswerGrammar::Trigger::Kind;
  for (const common_grammar_trigger& t : params.grammar_triggers) {
    const Kind kind = t.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN        ? Kind::kPattern
                      : t.type == COMMON_GRAMMAR_TRIGGER_TYPE_PATTERN_FULL ? Kind::kPatternFull
                                                                           : Kind::kWord;
    grammar.triggers.push_back({kind, t.value});
  }
  grammar.prefill = params.generation_prompt;
  return grammar;
}

/// What an answer may think before it says anything: nothing, if the prompt has closed it already.
ThoughtTags thoughts_of(const common_chat_params& params) {
  if (params.thinking_start_tag.empty() || params.thinking_end_tags.empty()) return {};
  ThoughtTags tags{.open = params.thinking_start_tag, .close = params.thinking_end_tags.front()};
  const std::string& said = params.generation_prompt;
  const std::size_t open = said.rfind(tags.open);
  const std::size_t close = said.rfind(tags.close);
  if (close != std::string::npos && (open == std::string::npos || close > open)) return {};
  tags.begun = open != std::string::npos;
  return tags;
}

}  // namespace

struct ChatTemplate::Llama {
  common_chat_templates_ptr templates;
  bool knows_tools = false;
  bool knows_thinking = false;
};

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer), llama_(std::make_unique<Llama>()) {}
ChatTemplate::~ChatTemplate() = default;

bool ChatTemplate::knows_tools() const noexcept { return llama_->knows_tools; }

Result<std::unique_ptr<const ChatTemplate>> ChatTemplate::open(const ModelFile& model,
                                                               const Tokenizer& tokenizer,
                                                               const std::string& override_source) {
  std::unique_ptr<ChatTemplate> made(new ChatTemplate(tokenizer));
  try {
    made->llama_->templates = common_chat_templates_init(model.handle(), override_source);
    const auto caps = common_chat_templates_get_caps(made->llama_->templates.get());
    const auto has = [&](const char* name) {
      const auto found = caps.find(name);
      return found != caps.end() && found->second;
    };
    made->llama_->knows_tools = has("supports_tools") && has("supports_tool_calls");
    made->source_ = common_chat_templates_source(made->llama_->templates.get());
    common_chat_templates_inputs probe;
    common_chat_msg message;
    message.role = "user";
    message.content = "Hello";
    probe.messages.push_back(message);
    made->llama_->knows_thinking =
        common_chat_templates_apply(made->llama_->templates.get(), probe).supports_thinking;
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument,
                fmt::format("the chat template cannot be used: {}", problem.what()));
  }
  made->study_source();
  return made;
}

Result<void> ChatTemplate::check_source(const std::string& source) {
  try {
    common_chat_templates_init(nullptr, source.empty() ? " " : source);
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument, problem.what());
  }
  return {};
}

void ChatTemplate::study_source() {
  const TemplateCode code(source_);
  transparent_ = !llama_->knows_thinking && code.is_transparent();
  trims_ = code.uses("trim") || code.uses("strip");
  strings_ = code.strings();
  std::ranges::sort(strings_);
  local_ = transparent_ && code.is_local() && seams_hold();
  if (!transparent_) log::debug("chat template: rendered in full every time");
}

bool ChatTemplate::opaque(std::string_view content) const {
  if (content.empty()) return false;
  if (trims_ && (std::isspace(static_cast<unsigned char>(content.front())) != 0 ||
                 std::isspace(static_cast<unsigned char>(content.back())) != 0)) {
    return false;
  }
  return !std::binary_search(strings_.begin(), strings_.end(), content);
}

bool ChatTemplate::plain(const Conversation& c) const {
  return c.tools.empty() && c.json_schema.empty() && c.grammar.empty() &&
         c.template_kwargs.empty() && !c.continue_final_message &&
         std::ranges::all_of(c.messages, [&](const Message& m) {
           return m.name.empty() && m.reasoning.empty() && m.tool_calls.empty() &&
                  m.tool_call_id.empty() && m.role != "tool" && opaque(m.content);
         });
}

bool ChatTemplate::lay_out(const Conversation& conversation, TemplateCache& cache,
                           RenderedPrompt& out) const {
  const std::size_t count = conversation.messages.size();
  if (local_) {
    out.pieces.reserve(2 * count + 1);
    for (std::size_t i = 0; i <= count; ++i) {
      const std::string* text = seam(conversation, i, cache);
      if (text == nullptr) {
        out.pieces.clear();
        return false;
      }
      out.pieces.push_back({*text, true});
      if (i < count) out.pieces.push_back({conversation.messages[i].content, false});
    }
    return true;
  }

  std::vector<std::string_view> roles;
  std::string key;
  for (const Message& m : conversation.messages) {
    roles.push_back(m.role);
    key += m.role;
    key += '\n';
  }
  key += conversation.add_generation_prompt ? '+' : '-';
  auto found = cache.shapes_.find(key);
  if (found == cache.shapes_.end()) {
    if (count > TemplateCache::kMessagesMax) return false;
    while (cache.messages_ + count > TemplateCache::kMessagesMax) {
      const auto oldest = std::ranges::min_element(
          cache.shapes_, {}, [](const auto& entry) { return entry.second.used; });
      cache.messages_ -= oldest->second.messages;
      cache.shapes_.erase(oldest);
    }
    found = cache.shapes_.emplace(key, TemplateCache::Shape{}).first;
    found->second.messages = count;
    cache.messages_ += count;
    found->second.literals = literals(roles, conversation.add_generation_prompt);
  }
  TemplateCache::Shape& shape = found->second;
  shape.used = ++cache.clock_;
  if (shape.literals.empty()) return false;
  out.pieces.reserve(2 * count + 1);
  for (std::size_t i = 0; i < count; ++i) {
    out.pieces.push_back({shape.literals[i], true});
    out.pieces.push_back({conversation.messages[i].content, false});
  }
  out.pieces.push_back({shape.literals.back(), true});
  return true;
}

/// What the template writes before, between and after contents of messages with these roles. Empty
/// if it refuses them or writes a content twice or not at all.
std::vector<std::string> ChatTemplate::literals(std::span<const std::string_view> roles,
                                                bool add_generation_prompt) const {
  Conversation probe;
  probe.add_generation_prompt = add_generation_prompt;
  std::vector<std::string> contents;
  for (std::size_t i = 0; i < roles.size(); ++i) contents.push_back(placeholder(i));
  for (std::size_t i = 0; i < roles.size(); ++i) {
    probe.messages.push_back({.role = roles[i], .content = contents[i]});
  }
  ConstraintCache unused;
  const Result<RenderedPrompt> rendered = render_fully(probe, unused);
  if (!rendered) return {};
  std::string text;
  for (const Piece& p : rendered->pieces) text += p.text;
  std::vector<std::string> found;
  std::size_t start = 0;
  for (const std::string& content : contents) {
    const std::size_t at = text.find(content, start);
    if (at == std::string::npos) return {};
    found.push_back(text.substr(start, at - start));
    start = at + content.size();
  }
  found.push_back(text.substr(start));
  const bool twice = std::ranges::any_of(found, [](const std::string& literal) {
    return literal.find("PENSTOCKcontent") != std::string::npos;
  });
  return twice ? std::vector<std::string>() : found;
}

/// Of a local template: what stands before the content of message `i`, or after the last one's. It
/// is learned from the shortest conversation in which the same stands around it: the first message,
/// the ones on both sides, and another after them unless they are the last.
const std::string* ChatTemplate::seam(const Conversation& c, std::size_t i,
                                      TemplateCache& cache) const {
  const auto& messages = c.messages;
  const bool is_end = i == messages.size();
  std::array<std::string_view, 4> roles;
  std::size_t count = 0;
  if (i > 0) roles[count++] = messages[0].role;
  if (i > 1) roles[count++] = messages[i - 1].role;
  const std::size_t at = count;
  if (!is_end) roles[count++] = messages[i].role;
  if (i + 1 < messages.size()) roles[count++] = messages[i + 1].role;

  cache.key_.clear();
  for (std::size_t k = 0; k < count; ++k) {
    cache.key_ += roles[k];
    cache.key_ += '\n';
  }
  cache.key_ += static_cast<char>('0' + at);
  cache.key_ += c.add_generation_prompt ? '+' : '-';
  auto found = cache.seams_.find(cache.key_);
  if (found == cache.seams_.end()) {
    if (cache.seams_.size() >= TemplateCache::kSeamsMax) return nullptr;
    std::vector<std::string> made =
        literals(std::span(roles).first(count), c.add_generation_prompt);
    std::optional<std::string> text;
    if (!made.empty()) text = std::move(made[at]);
    found = cache.seams_.emplace(cache.key_, std::move(text)).first;
  }
  return found->second ? &*found->second : nullptr;
}

/// Whether conversations put together from seams are what the whole template makes of them.
bool ChatTemplate::seams_hold() const {
  TemplateCache cache;
  for (const std::string_view shape : {"u", "s", "su", "sua", "suau", "suaua", "uau", "uauau", "ua",
                                       "uu", "suu", "suaau", "aua", "susu", "usuau"}) {
    for (const bool prompted : {true, false}) {
      Conversation c;
      c.add_generation_prompt = prompted;
      std::vector<std::string_view> roles;
      for (const char r : shape) {
        roles.emplace_back(r == 'u' ? "user" : r == 's' ? "system" : "assistant");
        auto& message = c.messages.emplace_back();
        message.role = roles.back();
        message.content = "x";
      }
      const std::vector<std::string> whole = literals(roles, prompted);
      for (std::size_t i = 0; i < whole.size(); ++i) {
        const std::string* text = seam(c, i, cache);
        if (text == nullptr || *text != whole[i]) return false;
      }
    }
  }
  return true;
}

Result<RenderedPrompt> ChatTemplate::render(const Conversation& conversation,
                                            TemplateCache& cache) const {
  if (transparent_ && plain(conversation)) {
    RenderedPrompt out;
    if (lay_out(conversation, cache, out)) return out;
  }
  return render_fully(conversation, cache.constraints_);
}

namespace {

Result<common_chat_params> apply(const common_chat_templates* templates,
                                 const common_chat_templates_inputs& inputs) {
  try {
    return common_chat_templates_apply(templates, inputs);
  } catch (const std::exception& problem) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("the model's chat template refuses this conversation: {}", problem.what()),
        "messages");
  }
}

}  // namespace

Result<RenderedPrompt> ChatTemplate::render_fully(const Conversation& c,
                                                  ConstraintCache& cache) const {
  Result<Constraints> enforced = check_constraints(c, cache);
  if (!enforced) return std::unexpected(enforced.error());
  const auto inputs = [&](bool knows_tools) {
    return template_inputs(c, enforced->tool_parameters, *tokenizer_, knows_tools);
  };
  TemplateInputs made = inputs(llama_->knows_tools);
  const bool calls_tools = !c.tools.empty() && c.tool_mode != Conversation::ToolMode::kNone;
  if (llama_->knows_thinking && !calls_tools) {
    made.inputs.json_schema = std::move(enforced->schema);
    made.inputs.grammar = c.grammar;
  }
  RenderedPrompt out;
  Result<common_chat_params> applied = apply(llama_->templates.get(), made.inputs);
  if (!applied && !made.inputs.tools.empty()) {
    // Some templates cannot list parameters whose type is not plain.
    for (common_chat_tool& tool : made.inputs.tools) {
      tool.parameters = with_plain_types(tool.parameters);
    }
    Result<common_chat_params> again = apply(llama_->templates.get(), made.inputs);
    if (!again) {  // Nor these, whatever they are: then the tools are taught without it.
      made = inputs(false);
      again = apply(llama_->templates.get(), made.inputs);
    }
    if (again) applied = std::move(again);
  }
  if (!applied) return std::unexpected(applied.error());
  common_chat_params& params = *applied;
  out.stops = params.additional_stops;
  if (calls_tools && made.own_tools) {
    std::vector<ToolText> tools = c.tools;
    for (std::size_t i = 0; i < tools.size(); ++i) {
      tools[i].parameters = enforced->tool_parameters[i];
    }
    out.format.kind = AnswerFormat::Kind::kToolTags;
    out.format.thoughts = thoughts_of(params);
    out.format.thoughts.ends_with_call = c.tool_mode == Conversation::ToolMode::kAuto;
    out.format.parse_tool_calls = true;
    Result<AnswerGrammar> grammar =
        tool_grammar(tools, c.tool_mode, c.parallel_tool_calls, out.format.thoughts);
    if (!grammar) return std::unexpected(grammar.error());
    out.grammar = std::move(*grammar);
  } else if (calls_tools || llama_->knows_thinking) {
    // Where the model may think or the template writes tool calls, llama.cpp derives grammar and
    // parser together; elsewhere the answer is plain text and the grammar stands alone.
    out.grammar = grammar_from(params);
    out.format.kind = AnswerFormat::Kind::kTemplate;
    out.format.parser = params.parser;
    out.format.template_format = params.format;
    out.format.generation_prompt = params.generation_prompt;
    out.format.parse_tool_calls = calls_tools;
    out.format.continues_message = c.continue_final_message;
    // llama.cpp derives no grammar from a grammar.
    if (!calls_tools && !c.grammar.empty()) out.grammar = {.gbnf = std::string(c.grammar)};
  } else {
    out.grammar.gbnf = std::move(enforced->gbnf);
  }
  out.grammar.checked = true;  // by check_constraints()
  out.grammar.parses = c.grammar.empty();

  out.storage.push_back(std::move(params.prompt));
  const std::string_view text = out.storage.back();
  std::size_t start = 0;
  while (true) {
    const std::size_t mark = text.find(split_mark(), start);
    out.pieces.push_back({text.substr(start, mark - start), true});
    if (mark == std::string_view::npos) break;
    start = mark + split_mark().size();
  }
  return out;
}

}  // namespace penstock::text
