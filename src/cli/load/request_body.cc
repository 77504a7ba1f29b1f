#include "cli/load/request_body.h"

#include <fmt/format.h>

#include <iterator>

#include "api/openai.h"
#include "cli/load/prompts.h"

namespace penstock::cli::load {

std::string_view path_of(Endpoint endpoint) noexcept {
  return endpoint == Endpoint::kChat ? "/v1/chat/completions" : "/v1/completions";
}

std::string request_body(const RequestOptions& options, std::string_view history,
                         std::uint32_t max_tokens) {
  std::string body;
  body.reserve(history.size() + 256);
  body += R"({"model":)";
  api::append_json_string(body, options.model);
  if (options.endpoint == Endpoint::kChat) {
    body += R"(,"messages":[)";
    body += history;
    body += ']';
  } else {
    body += R"(,"prompt":)";
    api::append_json_string(body, history);
  }
  const auto out = std::back_inserter(body);
  fmt::format_to(out, R"(,"max_tokens":{})", max_tokens);
  if (options.temperature) fmt::format_to(out, R"(,"temperature":{})", *options.temperature);
  if (options.seed) fmt::format_to(out, R"(,"seed":{})", *options.seed);
  if (options.ignore_eos) body += R"(,"ignore_eos":true)";
  if (options.stream) body += R"(,"stream":true,"stream_options":{"include_usage":true})";
  body += '}';
  return body;
}

void append_answer(std::string& history, Endpoint endpoint, std::string_view text) {
  if (endpoint == Endpoint::kCompletions) {
    history += text;
    return;
  }
  history += ',';
  append_message(history, "assistant", text);
}

void append_turn(std::string& history, Endpoint endpoint, std::string_view turn) {
  if (endpoint == Endpoint::kChat && !history.empty()) history += ',';
  history += turn;
}

}  // namespace penstock::cli::load
