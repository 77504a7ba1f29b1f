#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

/// OpenAI's wire types: what the HTTP bodies mean, and nothing that does I/O. Parsing is strict
/// about types and ranges (an Error names the field and what would be right, in `param`) and
/// lenient about fields it does not know (they are listed in `unknown_fields`).
namespace penstock::api {

/// Limits of one request; beyond them parsing fails with kInvalidArgument.
inline constexpr std::size_t kMessagesMax = 16384;
inline constexpr std::size_t kToolsMax = 1536;
inline constexpr std::size_t kFunctionNameBytesMax = 96;
inline constexpr std::size_t kStopEntriesMax = 32;  // of stop, and of stop_token_ids
inline constexpr std::size_t kLogitBiasEntriesMax = 4096;
inline constexpr std::uint32_t kChoicesMax = 128;
inline constexpr std::size_t kPromptsMax = 256;
inline constexpr std::size_t kCompletionChoicesMax = 1024;  // n times the number of prompts
inline constexpr std::size_t kEmbeddingInputsMax = 2048;
inline constexpr std::size_t kTemplateKwargsMax = 64;
inline constexpr std::size_t kJsonDepthMax = 64;

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text, as the model or client wrote it
  friend bool operator==(const ToolCall&, const ToolCall&) = default;
};

struct ChatMessage {
  std::string role;     // system, developer, user, assistant, tool (function is refused)
  std::string content;  // text parts of an array are joined by '\n'; null is empty
  std::string name;
  std::string reasoning_content;
  std::vector<ToolCall> tool_calls;  // assistant only
  std::string tool_call_id;          // tool only
  friend bool operator==(const ChatMessage&, const ChatMessage&) = default;
};

struct Tool {
  std::string name;
  std::string description;
  std::string parameters;  // JSON schema text; empty: no arguments
  friend bool operator==(const Tool&, const Tool&) = default;
};

struct ToolChoice {
  enum class Mode : std::uint8_t { kAuto, kNone, kRequired, kFunction };
  Mode mode = Mode::kAuto;
  std::string function;  // kFunction
  friend bool operator==(const ToolChoice&, const ToolChoice&) = default;
};

struct ResponseFormat {
  enum class Kind : std::uint8_t { kText, kJsonObject, kJsonSchema };
  Kind kind = Kind::kText;
  std::string schema;  // kJsonSchema: JSON text of an object
  friend bool operator==(const ResponseFormat&, const ResponseFormat&) = default;
};

/// What chat and completions have in common. Absent optionals mean "the server's default".
struct GenerationParams {
  std::string model;
  bool stream = false;
  bool include_usage = false;  // stream_options.include_usage
  std::uint32_t n = 1;
  std::optional<std::uint32_t> max_tokens;  // max_completion_tokens wins over max_tokens
  std::uint32_t min_tokens = 0;
  std::optional<float> temperature;         // 0..2
  std::optional<float> top_p;               // 0..1, not 0
  std::optional<float> min_p;               // 0..1
  std::optional<std::int32_t> top_k;        // >= -1
  std::optional<float> frequency_penalty;   // -2..2
  std::optional<float> presence_penalty;    // -2..2
  std::optional<float> repetition_penalty;  // (0, 2]
  std::optional<std::uint32_t> seed;  // any 64-bit integer, folded to 32; below 2^32 it is itself
  std::vector<std::string> stop;      // none is empty
  std::vector<Token> stop_token_ids;  // from there and from stop; ascending, each once
  bool ignore_eos = false;
  std::vector<std::pair<Token, float>> logit_bias;  // -100..100; ascending, a token once
  std::optional<std::uint32_t> top_logprobs;        // absent: none; 0: the drawn token's only
  std::string grammar;  // GBNF, our extension ("grammar", as llama-server)
  std::string cache_salt;
  std::int32_t priority = 0;
  std::string user;
  bool return_token_ids = false;            // vLLM's extension: prompt_token_ids and token_ids
  std::vector<std::string> unknown_fields;  // top level, in order, at most 16, names shortened
  friend bool operator==(const GenerationParams&, const GenerationParams&) = default;
};

struct ChatRequest : GenerationParams {
  std::vector<ChatMessage> messages;  // at least one
  std::vector<Tool> tools;
  ToolChoice tool_choice;
  bool parallel_tool_calls = true;
  ResponseFormat response_format;
  /// chat_template_kwargs, and reasoning_effort unless that is among them: name, JSON text.
  std::vector<std::pair<std::string, std::string>> template_kwargs;
  bool add_generation_prompt = true;    // when not given: unless continue_final_message
  bool continue_final_message = false;  // the last message is the assistant's then
  friend bool operator==(const ChatRequest&, const ChatRequest&) = default;
};

struct CompletionRequest : GenerationParams {
  std::vector<std::variant<std::string, std::vector<Token>>> prompts;  // at least one, none empty
  bool echo = false;
  friend bool operator==(const CompletionRequest&, const CompletionRequest&) = default;
};

struct EmbeddingRequest {
  std::string model;
  std::vector<std::variant<std::string, std::vector<Token>>> inputs;  // at least one, none empty
  bool base64 = false;                                                // encoding_format
  std::optional<std::uint32_t> dimensions;  // refuse it unless it is what the model has anyway
  std::vector<std::string> unknown_fields;
  friend bool operator==(const EmbeddingRequest&, const EmbeddingRequest&) = default;
};

/// `body` must be followed by at least 64 readable bytes (simdjson's padding; see
/// net::kBodyPaddingBytes); it is not modified. Token ids are 0..2^31-1: whether the model has
/// them is for the caller to check. Policies: README.md.
/// Errors: kInvalidArgument with `param` as the client wrote it ("messages[2].content[0].text"),
/// kUnprocessable for what is well-formed but beyond this server (images, audio). A message shows
/// at most 60 bytes of a value, and nothing of a prompt.
/// Thread: any; a parser is kept per thread.
Result<ChatRequest> parse_chat_request(std::string_view body);
Result<CompletionRequest> parse_completion_request(std::string_view body);
Result<EmbeddingRequest> parse_embedding_request(std::string_view body);

// ---- what goes out -------------------------------------------------------------------------

struct TokenLogprob {
  std::string token;  // its text; bytes that are no UTF-8 are shown as U+FFFD here
  std::string bytes;  // its exact bytes
  float logprob = 0;  // -infinity is shown as -9999.0; NaN: unknown (the first token of a prompt)
  std::vector<TokenLogprob> top;
};

struct UsageCounts {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t cached_tokens = 0;
  std::uint32_t completion_tokens = 0;
};

/// What all chunks of one answer share.
struct AnswerHead {
  std::string id;            // "chatcmpl-..." or "cmpl-..."
  std::int64_t created = 0;  // Unix seconds
  std::string model;
  std::string fingerprint;  // system_fingerprint; empty: not shown
};

/// Appends `text` as a JSON string with quotes. Bytes that are no UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);

/// {"error":{"message","type","param","code"}}
[[nodiscard]] std::string error_body(const Error& error);

/// Appends the `data: {...}\n\n` events of a streamed chat answer to `out`. What surrounds a delta
/// is laid out once, so a token costs a few short copies. With `include_usage` every chunk says
/// "usage":null and usage() comes last. Immutable: any thread.
class ChatStreamWriter final {
 public:
  ChatStreamWriter(const AnswerHead& head, bool include_usage);

  /// The first delta: {"role":"assistant","content":""}.
  void role(std::string& out, std::uint32_t choice,
            const std::vector<Token>* prompt_token_ids = nullptr) const;
  void content(std::string& out, std::uint32_t choice, std::string_view text,
               const std::vector<TokenLogprob>* logprobs = nullptr,
               const std::vector<Token>* token_ids = nullptr) const;
  void reasoning(std::string& out, std::uint32_t choice, std::string_view text) const;
  /// First piece of a call carries id and name, later ones only arguments.
  void tool_call(std::string& out, std::uint32_t choice, std::uint32_t index, std::string_view id,
                 std::string_view name, std::string_view arguments) const;
  void finish(std::string& out, std::uint32_t choice, std::string_view finish_reason) const;
  void usage(std::string& out, const UsageCounts& usage) const;  // choices: []
  static void error(std::string& out, const Error& error);       // an error event
  static void done(std::string& out);                            // data: [DONE]
  static void heartbeat(std::string& out);                       // a comment line

 private:
  void begin(std::string& out, std::uint32_t choice, std::string_view delta,
             std::size_t text_bytes) const;

  std::string open_;   // up to and including "choices":[
  std::string close_;  // from the choice's closing brace to the event's end
};

struct ChatChoice {
  std::uint32_t index = 0;
  std::string content;
  std::string reasoning_content;
  std::vector<ToolCall> tool_calls;
  std::string finish_reason;
  std::optional<std::vector<TokenLogprob>> logprobs;
  std::vector<Token> token_ids;  // shown if not empty
};

/// `content` is written as null when it is empty and there are tool calls.
[[nodiscard]] std::string chat_answer(const AnswerHead& head,
                                      const std::vector<ChatChoice>& choices,
                                      const UsageCounts& usage,
                                      const std::vector<Token>* prompt_token_ids = nullptr);

/// The same for /v1/completions. error(), done() and heartbeat() are ChatStreamWriter's.
class CompletionStreamWriter final {
 public:
  CompletionStreamWriter(const AnswerHead& head, bool include_usage);
  /// `text_offset`: characters of the choice's tokens before these; for logprobs only.
  void text(std::string& out, std::uint32_t choice, std::string_view text,
            const std::vector<TokenLogprob>* logprobs = nullptr, std::uint32_t text_offset = 0,
            const std::vector<Token>* token_ids = nullptr,
            const std::vector<Token>* prompt_token_ids = nullptr) const;
  void finish(std::string& out, std::uint32_t choice, std::string_view finish_reason) const;
  void usage(std::string& out, const UsageCounts& usage) const;

 private:
  std::string open_;
  std::string close_;
};

struct CompletionChoice {
  std::uint32_t index = 0;
  std::string text;
  std::string finish_reason;
  std::optional<std::vector<TokenLogprob>> logprobs;
  std::vector<Token> token_ids;                          // shown if not empty
  const std::vector<Token>* prompt_token_ids = nullptr;  // shown if there; choices may share them
};

[[nodiscard]] std::string completion_answer(const AnswerHead& head,
                                            const std::vector<CompletionChoice>& choices,
                                            const UsageCounts& usage);

/// A number that is not finite is written as null, or as its bits in base64 (little-endian floats).
[[nodiscard]] std::string embedding_answer(std::string_view model,
                                           const std::vector<std::vector<float>>& vectors,
                                           bool base64, std::uint32_t prompt_tokens);

struct ModelCard {
  std::string id;
  std::int64_t created = 0;
  std::uint32_t context_tokens_max = 0;  // 0: not shown
};
[[nodiscard]] std::string model_list(const std::vector<ModelCard>& models);
[[nodiscard]] std::string model_body(const ModelCard& model);  // of GET /v1/models/{id}

}  // namespace penstock::api
