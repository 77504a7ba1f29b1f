#include "api/internal/write_parts.h"

#include <cmath>

#include "api/internal/json_text.h"

namespace penstock::api {

void append_head(std::string& out, const AnswerHead& head, std::string_view object) {
  out += R"({"id":)";
  append_json_string(out, head.id);
  out += R"(,"object":)";
  append_json_string(out, object);
  out += R"(,"created":)";
  append_int(out, head.created);
  out += R"(,"model":)";
  append_json_string(out, head.model);
  if (!head.fingerprint.empty()) {
    out += R"(,"system_fingerprint":)";
    append_json_string(out, head.fingerprint);
  }
  out += R"(,"choices":[)";
}

void append_usage(std::string& out, const UsageCounts& usage) {
  out += R"({"prompt_tokens":)";
  append_int(out, usage.prompt_tokens);
  out += R"(,"completion_tokens":)";
  append_int(out, usage.completion_tokens);
  out += R"(,"total_tokens":)";
  append_int(out, std::uint64_t{usage.prompt_tokens} + usage.completion_tokens);
  out += R"(,"prompt_tokens_details":{"cached_tokens":)";
  append_int(out, usage.cached_tokens);
  out += "}}";
}

void append_tokens(std::string& out, const std::vector<Token>& tokens) {
  out += '[';
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    append_int(out, tokens[i]);
  }
  out += ']';
}

void append_token_field(std::string& out, std::string_view name, const std::vector<Token>* tokens) {
  if (tokens == nullptr || tokens->empty()) return;
  out += ",\"";
  out += name;
  out += "\":";
  append_tokens(out, *tokens);
}

void append_logprob(std::string& out, float logprob) {
  constexpr float kLowest = -9999.0F;  // OpenAI's way to say "practically impossible"
  if (!std::isfinite(logprob) || logprob <= kLowest) {
    out += "-9999.0";
  } else {
    append_float(out, logprob);
  }
}

void append_usage_event(std::string& out, std::string_view open, const UsageCounts& usage) {
  out += open;
  out += R"(],"usage":)";
  append_usage(out, usage);
  out += "}\n\n";
}

std::string_view stream_close(bool include_usage) noexcept {
  return include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n";
}

}  // namespace penstock::api
