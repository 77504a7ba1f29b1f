#include "text/chat_template.h"

#include <chat.h>
#include <fmt/format.h>
#include <json-schema-to-grammar.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <exception>
#include <random>
#include <set>

#include "base/log.h"
#include "text/constraint_limits.h"
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

/// Names the code of a template may use and still be laid out from memory: none of them lets it
/// see more of a content than whether it is empty or equal to a string (and trim it).
constexpr std::array<std::string_view, 50> kTransparentNames = {"message",
                                                                "messages",
                                                                "role",
                                                                "content",
                                                                "loop",
                                                                "first",
                                                                "last",
                                                                "index",
                                                                "index0",
                                                                "add_generation_prompt",
                                                                "bos_token",
                                                                "eos_token",
                                                                "true",
                                                                "false",
                                                                "True",
                                                                "False",
                                                                "none",
                                                                "None",
                                                                "trim",
                                                                "strip",
                                                                "namespace",
                                                                "raise_exception",
                                                                "string",
                                                                "tools",
                                                                "for",
                                                                "in",
                                                                "if",
                                                                "elif",
                                                                "else",
                                                                "endif",
                                                                "endfor",
                                                                "set",
                                                                "and",
                                                                "or",
                                                                "not",
                                                                "is",
                                                                "defined",
                                                                "system",
                                                                "system_message",
                                                                "loop_messages",
                                                                "ns",
                                                                "enable_thinking",
                                                                "undefined",
                                                                "mod",
                                                                "iterable",
                                                                "mapping",
                                                                "user",
                                                                "assistant",
                                                                "offset",
                                                                "found"};

bool is_name_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// What stands inside {{ }} and {% %} of a template.
struct TemplateCode {
  std::vector<std::string> names;    // identifiers, in order
  std::vector<std::string> strings;  // string literals, escapes undone
  std::string skeleton;              // the code without strings and white space
};

char unescape(char c) {
  switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    default: return c;
  }
}

TemplateCode read_code(std::string_view source) {
  TemplateCode code;
  std::size_t i = 0;
  while (i + 1 < source.size()) {
    if (source[i] == '{' && source[i + 1] == '#') {
      const std::size_t end = source.find("#}", i);
      if (end == std::string_view::npos) break;
      i = end + 2;
      continue;
    }
    if (source[i] != '{' || (source[i + 1] != '{' && source[i + 1] != '%')) {
      ++i;
      continue;
    }
    i += 2;
    while (i + 1 < source.size() &&
           !((source[i] == '}' || source[i] == '%') && source[i + 1] == '}')) {
      const char c = source[i];
      if (c == '\'' || c == '"') {
        std::string text;
        for (++i; i < source.size() && source[i] != c; ++i) {
          if (source[i] == '\\' && i + 1 < source.size()) {
            text += unescape(source[++i]);
          } else {
            text += source[i];
          }
        }
        ++i;
        code.strings.push_back(std::move(text));
        code.skeleton += "'";
      } else if (std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_') {
        const std::size_t start = i;
        while (i < source.size() && is_name_char(source[i])) ++i;
        code.names.emplace_back(source.substr(start, i - start));
        code.skeleton += code.names.back();
        code.skeleton += ' ';
      } else {
        if (std::isspace(static_cast<unsigned char>(c)) == 0) code.skeleton += c;
        ++i;
      }
    }
    code.skeleton += ';';
    i += 2;
  }
  return code;
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
  grammar.gbnf = params.grammar;
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

void ChatTemplate::study_source() {
  const TemplateCode code = read_code(source_);
  // Names that the template itself sets, and strings it uses as keys, tell nothing of contents.
  const std::set<std::string_view> known(kTransparentNames.begin(), kTransparentNames.end());
  transparent_ = !llama_->knows_thinking &&
                 std::ranges::all_of(code.names, [&](const auto& n) { return known.contains(n); });
  // `in` only as part of `for x in y`: the other one searches.
  transparent_ =
      transparent_ && std::ranges::count(code.names, "in") == std::ranges::count(code.names, "for");
  for (const char* peek : {"content [", "content '[", "content '][", "']["}) {
    if (code.skeleton.find(peek) != std::string::npos) transparent_ = false;
  }
  trims_ =
      std::ranges::any_of(code.names, [](const auto& n) { return n == "trim" || n == "strip"; });
  literals_ = code.strings;
  std::ranges::sort(literals_);
  if (!transparent_) log::debug("chat template: rendered in full every time");
}

bool ChatTemplate::opaque(std::string_view content) const {
  if (content.empty()) return false;
  if (trims_ && (std::isspace(static_cast<unsigned char>(content.front())) != 0 ||
                 std::isspace(static_cast<unsigned char>(content.back())) != 0)) {
    return false;
  }
  return !std::binary_search(literals_.begin(), literals_.end(), content);
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
  std::string key;
  for (const Message& m : conversation.messages) {
    key += m.role;
    key += '\n';
  }
  key += conversation.add_generation_prompt ? '+' : '-';
  auto found = cache.shapes_.find(key);
  if (found == cache.shapes_.end()) {
    if (conversation.messages.size() > TemplateCache::kMessagesMax) return false;
    while (cache.messages_ + conversation.messages.size() > TemplateCache::kMessagesMax) {
      const auto oldest = std::ranges::min_element(
          cache.shapes_, {}, [](const auto& entry) { return entry.second.used; });
      cache.messages_ -= oldest->second.messages;
      cache.shapes_.erase(oldest);
    }
    found = cache.shapes_.emplace(key, TemplateCache::Shape{}).first;
    found->second.messages = std::max<std::size_t>(conversation.messages.size(), 1);
    cache.messages_ += found->second.messages;
    Conversation probe;
    probe.add_generation_prompt = conversation.add_generation_prompt;
    std::vector<std::string> contents;
    for (std::size_t i = 0; i < conversation.messages.size(); ++i)
      contents.push_back(placeholder(i));
    for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
      probe.messages.push_back({.role = conversation.messages[i].role, .content = contents[i]});
    }
    const Result<RenderedPrompt> rendered = render_fully(probe);
    if (rendered) {
      std::string text;
      for (const Piece& p : rendered->pieces) text += p.text;
      std::size_t start = 0;
      bool complete = true;
      TemplateCache::Shape& shape = found->second;
      for (const std::string& content : contents) {
        const std::size_t at = text.find(content, start);
        complete = complete && at != std::string::npos;
        if (!complete) break;
        shape.literals.push_back(text.substr(start, at - start));
        start = at + content.size();
      }
      shape.literals.push_back(text.substr(start));
      // A content that the template writes twice is none of these.
      shape.usable = complete && std::ranges::none_of(shape.literals, [](const auto& literal) {
                       return literal.find("PENSTOCKcontent") != std::string::npos;
                     });
    }
  }
  TemplateCache::Shape& shape = found->second;
  shape.used = ++cache.clock_;
  if (!shape.usable) return false;
  out.pieces.reserve(2 * conversation.messages.size() + 1);
  for (std::size_t i = 0; i < conversation.messages.size(); ++i) {
    out.pieces.push_back({shape.literals[i], true});
    out.pieces.push_back({conversation.messages[i].content, false});
  }
  out.pieces.push_back({shape.literals.back(), true});
  return true;
}

Result<RenderedPrompt> ChatTemplate::render(const Conversation& conversation,
                                            TemplateCache& cache) const {
  if (transparent_ && plain(conversation)) {
    RenderedPrompt out;
    if (lay_out(conversation, cache, out)) return out;
  }
  return render_fully(conversation);
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

struct LlamaInputs {
  common_chat_templates_inputs inputs;
  bool own_tools = false;  // tools are taught by tool_tags, not by the template
};

LlamaInputs llama_inputs(const Conversation& c, const Tokenizer& tokenizer, bool knows_tools) {
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
    message.tool_name = m.name;
    message.tool_call_id = m.tool_call_id;
    if (!made.own_tools) {
      for (const ToolCallText& call : m.tool_calls) {
        message.tool_calls.push_back(
            {std::string(call.name), std::string(call.arguments), std::string(call.id)});
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
    for (const ToolText& t : c.tools) {
      in.tools.push_back(
          {std::string(t.name), std::string(t.description), std::string(t.parameters)});
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

/// Before anything of llama.cpp's sees what the client wants to be enforced.
Result<void> check_constraints(const Conversation& c) {
  if (Result<void> fine = check_schema(c.json_schema, "response_format.json_schema.schema");
      !fine) {
    return fine;
  }
  for (const ToolText& tool : c.tools) {
    if (Result<void> fine = check_schema(tool.parameters, "tools"); !fine) return fine;
  }
  return c.grammar.empty() ? Result<void>{} : check_gbnf(c.grammar);
}

}  // namespace

Result<RenderedPrompt> ChatTemplate::render_fully(const Conversation& c) const {
  if (Result<void> fine = check_constraints(c); !fine) return std::unexpected(fine.error());
  LlamaInputs made = llama_inputs(c, *tokenizer_, llama_->knows_tools);
  const bool calls_tools = !c.tools.empty() && c.tool_mode != Conversation::ToolMode::kNone;
  // Where the model may think or the template writes tool calls, llama.cpp derives grammar and
  // parser together; elsewhere the answer is plain text and the grammar stands alone.
  const bool from_template = llama_->knows_thinking || (calls_tools && !made.own_tools);
  if (from_template && !calls_tools) {
    if (!c.json_schema.empty()) {  // llama.cpp's own message would not name the field
      const Result<std::string> gbnf = schema_to_gbnf(c.json_schema);
      if (!gbnf) return std::unexpected(gbnf.error());
    }
    made.inputs.json_schema = c.json_schema;
    made.inputs.grammar = c.grammar;
  }
  RenderedPrompt out;
  common_chat_params params;
  try {
    params = common_chat_templates_apply(llama_->templates.get(), made.inputs);
  } catch (const std::exception& problem) {
    return fail(
        Code::kInvalidArgument,
        fmt::format("the model's chat template refuses this conversation: {}", problem.what()),
        "messages");
  }
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
  } else if (!c.json_schema.empty()) {
    Result<std::string> gbnf = schema_to_gbnf(c.json_schema);
    if (!gbnf) return std::unexpected(gbnf.error());
    out.grammar.gbnf = std::move(*gbnf);
  } else if (!c.grammar.empty()) {
    out.grammar.gbnf = c.grammar;
  }

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

Result<std::string> schema_to_gbnf(std::string_view schema) {
  try {
    const common_json parsed =
        common_json::parse(schema.empty() ? R"({"type":"object"})" : std::string(schema));
    return json_schema_to_grammar(parsed);
  } catch (const std::exception& problem) {
    return fail(Code::kInvalidArgument,
                fmt::format("the schema cannot be enforced: {}", problem.what()),
                "response_format.json_schema.schema");
  }
}

}  // namespace penstock::text
