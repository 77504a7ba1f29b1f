#include "api/internal/json_text.h"
#include "api/internal/write_parts.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

constexpr std::string_view kNotFinished = R"(,"finish_reason":null)";

void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
  }
  out += ']';
}

/// {"token","logprob","bytes" without the closing brace.
void append_token_logprob(std::string& out, const TokenLogprob& entry) {
  out += R"({"token":)";
  append_json_string(out, entry.token);
  out += R"(,"logprob":)";
  append_logprob(out, entry.logprob);
  out += R"(,"bytes":)";
  append_bytes(out, entry.bytes);
}

void append_logprobs(std::string& out, const std::vector<TokenLogprob>* logprobs) {
  out += R"(,"logprobs":)";
  if (logprobs == nullptr) {
    out += "null";
    return;
  }
  out += R"({"content":[)";
  for (std::size_t i = 0; i < logprobs->size(); ++i) {
    const TokenLogprob& entry = (*logprobs)[i];
    if (i > 0) out += ',';
    append_token_logprob(out, entry);
    out += R"(,"top_logprobs":[)";
    for (std::size_t rank = 0; rank < entry.top.size(); ++rank) {
      if (rank > 0) out += ',';
      append_token_logprob(out, entry.top[rank]);
      out += '}';
    }
    out += "]}";
  }
  out += R"(],"refusal":null})";
}

void append_tool_calls(std::string& out, const std::vector<ToolCall>& calls) {
  out += R"(,"tool_calls":[)";
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (i > 0) out += ',';
    out += R"({"id":)";
    append_json_string(out, calls[i].id);
    out += R"(,"type":"function","function":{"name":)";
    append_json_string(out, calls[i].name);
    out += R"(,"arguments":)";
    append_json_string(out, calls[i].arguments);
    out += "}}";
  }
  out += ']';
}

void append_choice(std::string& out, const ChatChoice& choice) {
  out += R"({"index":)";
  append_int(out, choice.index);
  out += R"(,"message":{"role":"assistant","content":)";
  if (choice.content.empty() && !choice.tool_calls.empty()) {
    out += "null";
  } else {
    append_json_string(out, choice.content);
  }
  out += R"(,"refusal":null)";
  if (!choice.reasoning_content.empty()) {
    out += R"(,"reasoning_content":)";
    append_json_string(out, choice.reasoning_content);
  }
  if (!choice.tool_calls.empty()) append_tool_calls(out, choice.tool_calls);
  out += '}';
  append_logprobs(out, choice.logprobs ? &*choice.logprobs : nullptr);
  out += R"(,"finish_reason":)";
  append_json_string(out, choice.finish_reason);
  append_token_field(out, "token_ids", &choice.token_ids);
  out += '}';
}

}  // namespace

// ---- streamed ----

ChatStreamWriter::ChatStreamWriter(const AnswerHead& head, bool include_usage)
    : open_("data: "), close_(stream_close(include_usage)) {
  append_head(open_, head, "chat.completion.chunk");
}

void ChatStreamWriter::begin(std::string& out, std::uint32_t choice, std::string_view delta,
                             std::size_t text_bytes) const {
  constexpr std::size_t kRestBytes = 128;  // the fixed words of any delta
  out.reserve(out.size() + open_.size() + text_bytes + kRestBytes + close_.size());
  out += open_;
  out += R"({"index":)";
  append_int(out, choice);
  out += R"(,"delta":{)";
  out += delta;
}

void ChatStreamWriter::role(std::string& out, std::uint32_t choice,
                            const std::vector<Token>* prompt_token_ids) const {
  begin(out, choice, R"("role":"assistant","content":""},"logprobs":null)", 0);
  out += kNotFinished;
  if (prompt_token_ids == nullptr || prompt_token_ids->empty()) {
    out += close_;
    return;
  }
  // They belong to the chunk, behind its choices.
  out += "}]";
  append_token_field(out, "prompt_token_ids", prompt_token_ids);
  out += std::string_view(close_).substr(2);
}

void ChatStreamWriter::content(std::string& out, std::uint32_t choice, std::string_view text,
                               const std::vector<TokenLogprob>* logprobs,
                               const std::vector<Token>* token_ids) const {
  begin(out, choice, R"("content":)", text.size());
  append_json_string(out, text);
  out += '}';
  append_logprobs(out, logprobs);
  out += kNotFinished;
  append_token_field(out, "token_ids", token_ids);
  out += close_;
}

void ChatStreamWriter::reasoning(std::string& out, std::uint32_t choice,
                                 std::string_view text) const {
  begin(out, choice, R"("reasoning_content":)", text.size());
  append_json_string(out, text);
  out += R"(},"logprobs":null)";
  out += kNotFinished;
  out += close_;
}

void ChatStreamWriter::tool_call(std::string& out, std::uint32_t choice, std::uint32_t index,
                                 std::string_view id, std::string_view name,
                                 std::string_view arguments) const {
  begin(out, choice, R"("tool_calls":[{"index":)", id.size() + name.size() + arguments.size());
  append_int(out, index);
  if (!id.empty()) {
    out += R"(,"id":)";
    append_json_string(out, id);
    out += R"(,"type":"function","function":{"name":)";
    append_json_string(out, name);
    out += R"(,"arguments":)";
  } else {
    out += R"(,"function":{"arguments":)";
  }
  append_json_string(out, arguments);
  out += R"(}}]},"logprobs":null)";
  out += kNotFinished;
  out += close_;
}

void ChatStreamWriter::finish(std::string& out, std::uint32_t choice,
                              std::string_view finish_reason) const {
  begin(out, choice, R"(},"logprobs":null,"finish_reason":)", finish_reason.size());
  append_json_string(out, finish_reason);
  out += close_;
}

void ChatStreamWriter::usage(std::string& out, const UsageCounts& usage) const {
  append_usage_event(out, open_, usage);
}

void ChatStreamWriter::error(std::string& out, const Error& error) {
  out += "data: ";
  out += error_body(error);
  out += "\n\n";
}

void ChatStreamWriter::done(std::string& out) { out += "data: [DONE]\n\n"; }

void ChatStreamWriter::heartbeat(std::string& out) { out += ": heartbeat\n\n"; }

// ---- whole ----

std::string chat_answer(const AnswerHead& head, const std::vector<ChatChoice>& choices,
                        const UsageCounts& usage, const std::vector<Token>* prompt_token_ids) {
  std::string out;
  append_head(out, head, "chat.completion");
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) out += ',';
    append_choice(out, choices[i]);
  }
  out += R"(],"usage":)";
  append_usage(out, usage);
  append_token_field(out, "prompt_token_ids", prompt_token_ids);
  out += '}';
  return out;
}

}  // namespace penstock::api
