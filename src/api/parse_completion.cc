#include <fmt/format.h>

#include <optional>

#include "api/internal/chat_fields.h"
#include "api/internal/generation_fields.h"
#include "api/internal/read_value.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

struct CompletionState : GenerationState {
  CompletionRequest& request;
  std::optional<std::uint32_t> best_of;
};

void read_prompt(JsonReader& json, CompletionState& state) {
  read_texts_or_tokens(json, kPromptsMax, state.request.prompts);
}

void read_suffix(JsonReader& json, CompletionState&) {
  std::string suffix;
  if (read_string(json, suffix) && !suffix.empty()) {
    json.fail("this server does not fill in the middle of a text", Code::kUnprocessable);
  }
}

void refuse_schema(JsonReader& json, CompletionState&) {
  json.fail("taken by /v1/chat/completions only, use grammar (GBNF) here");
}

/// "text" asks for nothing: clients that always send it are right here too.
void read_format(JsonReader& json, CompletionState& state) {
  ResponseFormat format;
  read_response_format(json, format);
  if (format.kind != ResponseFormat::Kind::kText) refuse_schema(json, state);
}

constexpr FieldTable kCompletionFields(std::to_array<Field<CompletionState>>({
    {"prompt", read_prompt},
    {"max_tokens",
     [](JsonReader& j, CompletionState& s) {
       read_int(j, 1, kIntMax, s.request.max_tokens.emplace());
     }},
    {"logprobs", [](JsonReader& j,
                    CompletionState& s) { read_int(j, 0, 5, s.request.top_logprobs.emplace()); }},
    {"echo", [](JsonReader& j, CompletionState& s) { read_bool(j, s.request.echo); }},
    {"best_of",
     [](JsonReader& j, CompletionState& s) { read_int(j, 1, kChoicesMax, s.best_of.emplace()); }},
    {"suffix", read_suffix},
    {"response_format", read_format},
    {"json_schema", refuse_schema},
    {"guided_json", refuse_schema},
}));

void check(JsonReader& json, const CompletionState& state) {
  const CompletionRequest& request = state.request;
  if (request.prompts.empty()) {
    json.fail_below("prompt", "missing, expected a string, an array of strings or token ids");
  }
  if (state.best_of && *state.best_of != request.n) {
    json.fail_below("best_of", fmt::format("must be left out or the same as n ({}), got {}",
                                           request.n, *state.best_of));
  }
  if (request.prompts.size() * request.n > kCompletionChoicesMax) {
    json.fail_below("n", fmt::format("{} choices for each of {} prompts are more than {} together",
                                     request.n, request.prompts.size(), kCompletionChoicesMax));
  }
}

}  // namespace

Result<CompletionRequest> parse_completion_request(std::string_view body) {
  CompletionRequest request;
  JsonReader json(body);
  CompletionState state{{request}, request, {}};
  FieldsSeen seen = 0;
  std::string_view key;
  while (json.next_field(key)) {
    if (kCompletionFields.read(json, key, state, seen) || read_generation_field(json, key, state))
      continue;
    note_unknown_field(key, request.unknown_fields);
  }
  finish_generation(json, state);
  check(json, state);
  if (!json.ok()) return std::unexpected(json.take_error());
  return request;
}

}  // namespace penstock::api
