#include "text/chat_template.h"

#include <chat.h>
#include <fmt/format.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <exception>
#include <optional>
#include <random>

#include "base/log.h"
#include "text/constraint_limits.h"
#include "text/literal_choice.h"
#include "text/schema_shape.h"
#include "text/template_code.h"
#include "text/tool_tags.h"

namespace penstock::text {
namespace {

/// Splits an untrusted special token's spelling so that it is not recognised; taken out again after
/// rendering. Random, so that nobody can write it into a message.
const std::string& split_mark() {
  static const std::string mark = [] {
    std::random_device random;
    return fmt::format("\xEE\x83\xBF{:08x}{:08x}\xEE\x83\xBF", random(), random());
  }();
  return mark;
}

std::string placeholder(std::size_t i) { return fmt::format("PENSTOCKcontent{}PLACEHOLDER", i); }

common_chat_tool_choice llama_tool_choice(Conversation::ToolMode mode) {
  switch (mode) {
    case Conversation::ToolMode::kAuto: return COMMON_CHAT_TOOL_CHOICE_AUTO;
    case Conversation::ToolMode::kNone: return COMMON_CHAT_TOOL_CHOICE_NONE;
    case Conversation::ToolMode::kRequired: return COMMON_CHAT_TOOL_CHOICE_REQUIRED;
  }
  return COMMON_CHAT_TOOL_CHOICE_AUTO;
}

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

struct LlamaInputs {
  common_chat_templates_inputs inputs;
  bool own_tools = false;  // tools are taught by tool_tags, not by the template
};

LlamaInputs llama_inputs(const Conversation& c, std::vector<std::string> parameters,
                         const Tokenizer& tokenizer, bool knows_tools) {
  LlamaInputs made;
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
                          parameters[i].empty() ? kNoParameters : std::move(parameters[i])});
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

struct Constraints {
  std::string gbnf;  // of the answer, by its schema or the client's own; or empty
  std::vector<std::string> tool_parameters;  // schemas, as llama.cpp is to see them
};

/// Before anything of llama.cpp's sees what the client wants to be enforced: the grammar of its
/// schema, or its own, or an empty one. Grammars that llama.cpp makes for tool calls are not looked
/// at as a whole: those of some templates are too intricate for check_gbnf() to follow, and all
/// that a client puts into them are the tools' schemas.
Result<Constraints> check_constraints(const Conversation& c, ConstraintCache& cache) {
  Constraints checked;
  for (const ToolText& tool : c.tools) {
    const Result<Constraint> fine = cache.find(tool.parameters, "tools");
    if (!fine) return std::unexpected(fine.error());
    checked.tool_parameters.emplace_back(fine->schema);
  }
  if (!c.grammar.empty()) {
    if (Result<void> fine = check_gbnf(c.grammar); !fine) return std::unexpected(fine.error());
    checked.gbnf = c.grammar;
    return checked;
  }
  const Result<Constraint> schema = cache.find(c.json_schema, "response_format.json_schema.schema");
  if (!schema) return std::unexpected(schema.error());
  checked.gbnf = schema->gbnf;
  return checked;
}

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
  LlamaInputs made =
      llama_inputs(c, std::move(enforced->tool_parameters), *tokenizer_, llama_->knows_tools);
  const bool calls_tools = !c.tools.empty() && c.tool_mode != Conversation::ToolMode::kNone;
  // Where the model may think or the template writes tool calls, llama.cpp derives grammar and
  // parser together; elsewhere the answer is plain text and the grammar stands alone.
  const bool from_template = llama_->knows_thinking || (calls_tools && !made.own_tools);
  if (from_template && !calls_tools) {
    made.inputs.json_schema = c.json_schema;
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
    if (again) applied = std::move(again);
  }
  if (!applied) return std::unexpected(applied.error());
  common_chat_params& params = *applied;
  out.stops = params.additional_stops;
  if (from_template) {
    out.grammar = grammar_from(params);
    out.format.kind = AnswerFormat::Kind::kTemplate;
    out.format.parser = params.parser;
    out.format.template_format = params.format;
    out.format.generation_prompt = params.generation_prompt;
    out.format.parse_tool_calls = calls_tools;
    out.format.continues_message = c.continue_final_message;
    // llama.cpp derives no grammar from a grammar.
    if (!calls_tools && !c.grammar.empty()) out.grammar = {.gbnf = std::string(c.grammar)};
  } else if (calls_tools) {
    Result<AnswerGrammar> grammar = tool_grammar(c.tools, c.tool_mode, c.parallel_tool_calls);
    if (!grammar) return std::unexpected(grammar.error());
    out.grammar = std::move(*grammar);
    out.format.kind = AnswerFormat::Kind::kToolTags;
    out.format.parse_tool_calls = true;
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
