#include <algorithm>
#include <cmath>

#include "api/internal/json_text.h"
#include "api/internal/write_parts.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

/// {"text":logprob,...}; a text that several tokens share keeps its most likely one, which is
/// first, because a JSON name must not repeat.
void append_top(std::string& out, const std::vector<TokenLogprob>& top) {
  out += '{';
  for (auto entry = top.begin(); entry != top.end(); ++entry) {
    if (std::find_if(top.begin(), entry, [&](const TokenLogprob& earlier) {
          return earlier.token == entry->token;
        }) != entry) {
      continue;
    }
    if (entry != top.begin()) out += ',';
    append_json_string(out, entry->token);
    out += ':';
    append_logprob(out, entry->logprob);
  }
  out += '}';
}

template <class Append>
void append_array(std::string& out, std::string_view name, const std::vector<TokenLogprob>& entries,
                  const Append& append) {
  out += '"';
  out += name;
  out += "\":[";
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) out += ',';
    append(entries[i]);
  }
  out += ']';
}

void append_logprobs(std::string& out, const std::vector<TokenLogprob>* logprobs,
                     std::uint64_t text_offset) {
  out += R"(,"logprobs":)";
  if (logprobs == nullptr) {
    out += "null";
    return;
  }
  out += '{';
  append_array(out, "tokens", *logprobs,
               [&](const TokenLogprob& entry) { append_json_string(out, entry.token); });
  out += ',';
  append_array(out, "token_logprobs", *logprobs, [&](const TokenLogprob& entry) {
    if (std::isnan(entry.logprob)) {
      out += "null";
    } else {
      append_logprob(out, entry.logprob);
    }
  });
  out += ',';
  const bool has_top =
      std::ranges::any_of(*logprobs, [](const TokenLogprob& entry) { return !entry.top.empty(); });
  if (has_top) {
    append_array(out, "top_logprobs", *logprobs, [&](const TokenLogprob& entry) {
      if (std::isnan(entry.logprob)) {
        out += "null";
      } else {
        append_top(out, entry.top);
      }
    });
  } else {
    out += R"("top_logprobs":null)";
  }
  out += ',';
  append_array(out, "text_offset", *logprobs, [&](const TokenLogprob& entry) {
    append_int(out, text_offset);
    text_offset += utf8_length(entry.bytes.empty() ? entry.token : entry.bytes);
  });
  out += '}';
}

void append_choice(std::string& out, const CompletionChoice& choice) {
  out += R"({"index":)";
  append_int(out, choice.index);
  out += R"(,"text":)";
  append_json_string(out, choice.text);
  append_logprobs(out, choice.logprobs ? &*choice.logprobs : nullptr, 0);
  out += R"(,"finish_reason":)";
  append_json_string(out, choice.finish_reason);
  append_token_field(out, "token_ids", &choice.token_ids);
  append_token_field(out, "prompt_token_ids", choice.prompt_token_ids);
  out += '}';
}

}  // namespace

CompletionStreamWriter::CompletionStreamWriter(const AnswerHead& head, bool include_usage)
    : open_("data: "), close_(stream_close(include_usage)) {
  append_head(open_, head, "text_completion");
}

void CompletionStreamWriter::text(std::string& out, std::uint32_t choice, std::string_view text,
                                  const std::vector<TokenLogprob>* logprobs,
                                  std::uint32_t text_offset, const std::vector<Token>* token_ids,
                                  const std::vector<Token>* prompt_token_ids) const {
  constexpr std::size_t kRestBytes = 96;  // the fixed words of a choice
  out.reserve(out.size() + open_.size() + text.size() + kRestBytes + close_.size());
  out += open_;
  out += R"({"index":)";
  append_int(out, choice);
  out += R"(,"text":)";
  append_json_string(out, text);
  append_logprobs(out, logprobs, text_offset);
  out += R"(,"finish_reason":null)";
  append_token_field(out, "token_ids", token_ids);
  append_token_field(out, "prompt_token_ids", prompt_token_ids);
  out += close_;
}

void CompletionStreamWriter::finish(std::string& out, std::uint32_t choice,
                                    std::string_view finish_reason) const {
  out += open_;
  out += R"({"index":)";
  append_int(out, choice);
  out += R"(,"text":"","logprobs":null,"finish_reason":)";
  append_json_string(out, finish_reason);
  out += close_;
}

void CompletionStreamWriter::usage(std::string& out, const UsageCounts& usage) const {
  append_usage_event(out, open_, usage);
}

std::string completion_answer(const AnswerHead& head, const std::vector<CompletionChoice>& choices,
                              const UsageCounts& usage) {
  std::string out;
  append_head(out, head, "text_completion");
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) out += ',';
    append_choice(out, choices[i]);
  }
  out += R"(],"usage":)";
  append_usage(out, usage);
  out += '}';
  return out;
}

}  // namespace penstock::api
