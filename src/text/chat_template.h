#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/answer_grammar.h"
#include "text/constraint_cache.h"
#include "text/tokenizer.h"

namespace penstock::text {

struct ToolCallText {
  std::string_view id;
  std::string_view name;
  std::string_view arguments;  // JSON text
};

/// One turn as a template sees it. Views into the request, which outlives the rendering.
struct Message {
  std::string_view role;
  std::string_view content;
  std::string_view name;
  std::string_view reasoning;
  std::vector<ToolCallText> tool_calls;
  std::string_view tool_call_id;
};

struct ToolText {
  std::string_view name;
  std::string_view description;
  std::string_view parameters;  // JSON schema text, or empty
};

struct Conversation {
  enum class ToolMode : std::uint8_t { kAuto, kNone, kRequired };

  std::vector<Message> messages;
  std::vector<ToolText> tools;  // only those the model may call
  ToolMode tool_mode = ToolMode::kAuto;
  bool parallel_tool_calls = true;
  std::string_view json_schema;  // the answer must match it; empty: free text
  std::string_view grammar;      // GBNF the answer must follow; empty: free text
  std::vector<std::pair<std::string_view, std::string_view>> template_kwargs;  // name, JSON text
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

/// How a model marks what it thinks before it answers. Empty tags: it does not.
struct ThoughtTags {
  std::string open;
  std::string close;
  bool begun = false;           // by the prompt: the answer begins within a thought
  bool ends_with_call = false;  // a call of ours ends it, as its grammar then does (kAuto)
};

/// How the answer must be read: see OutputParser.
struct AnswerFormat {
  enum class Kind : std::uint8_t {
    kPlain,     // content only
    kToolTags,  // our own <tool_call> tags, for templates that know no tools
    kTemplate,  // what llama.cpp derived from the template
  };
  Kind kind = Kind::kPlain;
  ThoughtTags thoughts;           // kToolTags
  std::string parser;             // kTemplate: llama.cpp's serialised parser
  int template_format = 0;        // kTemplate: llama.cpp's common_chat_format
  std::string generation_prompt;  // kTemplate: what the prompt already says of the answer
  bool parse_tool_calls = false;
  bool continues_message =
      false;  // kTemplate: of the answer, what the prompt says is known already
};

/// A prompt in pieces, and what comes with it. Pieces point into the conversation, into the
/// template, or into `storage`.
struct RenderedPrompt {
  std::vector<Piece> pieces;
  std::deque<std::string> storage;
  AnswerGrammar grammar;
  AnswerFormat format;
  std::vector<std::string> stops;  // texts at which this template's answers end
};

/// Remembers how conversations of one shape (roles in a row) are laid out, and schemas. One thread.
class TemplateCache final {
 public:
  /// Of all shapes together: some 100 bytes each.
  static constexpr std::size_t kMessagesMax = 16384;

 private:
  friend class ChatTemplate;
  struct Shape {
    std::vector<std::string> literals;  // before, between and after the contents; empty: unusable
    std::size_t messages = 0;
    std::uint64_t used = 0;
  };
  std::unordered_map<std::string, Shape> shapes_;
  std::size_t messages_ = 0;  // of all of them
  std::uint64_t clock_ = 0;

  // Of local templates.
  static constexpr std::size_t kSeamsMax = 4096;
  std::unordered_map<std::string, std::optional<std::string>> seams_;
  std::string key_;

  ConstraintCache constraints_;
};

/// A model's chat template, rendered by llama.cpp's Jinja. Plain conversations (no tools, no
/// options) of a shape seen before are laid out from memory instead: the template is run once a
/// shape with placeholders. That is done only for templates whose code cannot look inside the
/// contents, which is decided by reading their source (see chat_template.cc), and only for contents
/// that equal no string of the template. Where the code cannot tell a message's place either but
/// for the first and the last one (a local template, as ChatML), what stands between two contents
/// is remembered instead, so that a conversation that grows is never a new shape. Immutable; any
/// thread, each with its own cache.
class ChatTemplate final {
 public:
  /// `override_source` replaces the model's own template if not empty. A model without one gets
  /// ChatML, as in llama.cpp. Fails with kInvalidArgument when the source does not parse.
  static Result<std::unique_ptr<const ChatTemplate>> open(const ModelFile& model,
                                                          const Tokenizer& tokenizer,
                                                          const std::string& override_source = {});
  ~ChatTemplate();

  /// Fails with kInvalidArgument when `source` is no template that parses; needs no model.
  static Result<void> check_source(const std::string& source);

  /// Fails with kInvalidArgument when the template refuses the conversation (its own message) or
  /// a schema or grammar cannot be compiled. The result's pieces live as long as `conversation`
  /// and `cache` entry do: encode them before the next call.
  Result<RenderedPrompt> render(const Conversation& conversation, TemplateCache& cache) const;

  [[nodiscard]] bool knows_tools() const noexcept;
  [[nodiscard]] bool lays_out_from_memory() const noexcept { return transparent_; }
  [[nodiscard]] bool lays_out_locally() const noexcept { return local_; }
  [[nodiscard]] const std::string& source() const noexcept { return source_; }

 private:
  struct Llama;  // llama.cpp's compiled template

  explicit ChatTemplate(const Tokenizer& tokenizer);
  void study_source();
  bool lay_out(const Conversation& conversation, TemplateCache& cache, RenderedPrompt& out) const;
  [[nodiscard]] std::vector<std::string> literals(std::span<const std::string_view> roles,
                                                  bool add_generation_prompt) const;
  const std::string* seam(const Conversation& conversation, std::size_t i,
                          TemplateCache& cache) const;
  [[nodiscard]] bool seams_hold() const;
  [[nodiscard]] bool plain(const Conversation& conversation) const;
  [[nodiscard]] bool opaque(std::string_view content) const;
  Result<RenderedPrompt> render_fully(const Conversation& conversation,
                                      ConstraintCache& cache) const;

  const Tokenizer* tokenizer_;
  std::unique_ptr<Llama> llama_;
  std::string source_;
  bool transparent_ = false;          // the code never looks inside contents
  bool trims_ = false;                // it may trim white space around them
  bool local_ = false;                // nor where a message stands, but for first and last
  std::vector<std::string> strings_;  // every string in its code, sorted
};

}  // namespace penstock::text
