#include "api/internal/generation_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "api/internal/read_value.h"

namespace penstock::api {
namespace {

constexpr std::size_t kUnknownFieldsMax = 16;
constexpr std::size_t kStopBytesMax = 1024;  // of one stop string: each choice has its own copy
constexpr std::int64_t kIntMin = std::numeric_limits<std::int32_t>::min();

void read_stream_options(JsonReader& json, GenerationState& state) {
  using Options = GenerationParams;
  static constexpr FieldTable kGenerationFields(std::to_array<Field<Options>>({
      {"include_usage", [](JsonReader& j, Options& o) { read_bool(j, o.include_usage); }},
  }));
  kGenerationFields.read_object(json, state.params);
  state.has_stream_options = true;
}

/// An entry of `stop`: a text, or a token id as some clients send it.
bool read_stop_entry(JsonReader& json, GenerationParams& params) {
  if (json.type() == JsonType::kNumber) {
    return read_token(json, params.stop_token_ids.emplace_back());
  }
  if (json.type() == JsonType::kString) {
    std::string& stop = params.stop.emplace_back();
    if (!read_nonempty_string(json, stop)) return false;
    return stop.size() <= kStopBytesMax ||
           json.fail(
               fmt::format("{} bytes long; at most {} are looked for", stop.size(), kStopBytesMax));
  }
  return json.expected_unseen("a string or a token id");
}

void read_stop(JsonReader& json, GenerationState& state) {
  if (json.type() == JsonType::kString) {
    read_stop_entry(json, state.params);
    return;
  }
  if (json.type() != JsonType::kArray) {
    json.expected_unseen("a string or an array of strings");
    return;
  }
  json.enter_array();
  while (json.next_element()) {
    if (!room_for_one(json, kStopEntriesMax) || !read_stop_entry(json, state.params)) return;
  }
}

/// Appends: `stop` may have named token ids too.
void read_stop_token_ids(JsonReader& json, GenerationState& state) {
  std::vector<Token> ids;
  if (!read_tokens(json, kStopEntriesMax, ids)) return;
  std::vector<Token>& all = state.params.stop_token_ids;
  all.insert(all.end(), ids.begin(), ids.end());
}

void read_logit_bias(JsonReader& json, GenerationState& state) {
  if (json.type() != JsonType::kObject) {
    json.expected_unseen("an object of token ids and numbers");
    return;
  }
  auto& biases = state.params.logit_bias;
  json.enter_object();
  std::string_view key;
  while (json.next_field(key)) {
    if (biases.size() == kLogitBiasEntriesMax) {
      json.fail(fmt::format("more than {} entries", kLogitBiasEntriesMax));
      return;
    }
    auto& [token, bias] = biases.emplace_back(-1, 0.0F);
    const char* end = key.data() + key.size();
    const auto [stop, error] = std::from_chars(key.data(), end, token);
    if (error != std::errc() || stop != end || token < 0) {
      json.fail("the name must be a token id");
      return;
    }
    if (!read_float(json, {.min = -100, .max = 100}, bias)) return;
  }
  // Sorted, so that the order in which a client wrote them is of no effect.
  std::ranges::sort(biases, {}, [](const auto& entry) { return entry.first; });
  const auto twice =
      std::ranges::adjacent_find(biases, {}, [](const auto& entry) { return entry.first; });
  if (twice != biases.end()) {
    json.fail(fmt::format("token {} is given more than once", twice->first));
  }
}

/// A field that is a float of a range.
template <std::optional<float> GenerationParams::* member, double min, double max,
          bool without_min = false>
void read_range(JsonReader& json, GenerationState& state) {
  read_float(json, {min, max, without_min}, (state.params.*member).emplace());
}

/// repeat_penalty is llama-server's name for it.
void read_repetition_penalty(JsonReader& json, GenerationState& state) {
  if (state.params.repetition_penalty) {
    json.fail("repetition_penalty and repeat_penalty are the same, give one of the two");
    return;
  }
  read_float(json, {0, 2, true}, state.params.repetition_penalty.emplace());
}

void refuse_constraint(JsonReader& json, GenerationState&) {
  json.fail("not taken here, use grammar (GBNF) or, in chat, response_format with a JSON schema");
}

constexpr FieldTable kGenerationFields(std::to_array<Field<GenerationState>>({
    {"model", [](JsonReader& j, GenerationState& s) { read_nonempty_string(j, s.params.model); }},
    {"stream", [](JsonReader& j, GenerationState& s) { read_bool(j, s.params.stream); }},
    {"stream_options", read_stream_options},
    {"n", [](JsonReader& j, GenerationState& s) { read_int(j, 1, kChoicesMax, s.params.n); }},
    {"min_tokens",
     [](JsonReader& j, GenerationState& s) { read_int(j, 0, kIntMax, s.params.min_tokens); }},
    {"temperature", read_range<&GenerationParams::temperature, 0.0, 2.0>},
    {"top_p", read_range<&GenerationParams::top_p, 0.0, 1.0, true>},
    {"min_p", read_range<&GenerationParams::min_p, 0.0, 1.0>},
    {"top_k",
     [](JsonReader& j, GenerationState& s) { read_int(j, -1, kIntMax, s.params.top_k.emplace()); }},
    {"frequency_penalty", read_range<&GenerationParams::frequency_penalty, -2.0, 2.0>},
    {"presence_penalty", read_range<&GenerationParams::presence_penalty, -2.0, 2.0>},
    {"repeat_penalty", read_repetition_penalty},
    {"repetition_penalty", read_repetition_penalty},
    {"seed", [](JsonReader& j, GenerationState& s) { read_seed(j, s.params.seed.emplace()); }},
    {"stop", read_stop},
    {"stop_token_ids", read_stop_token_ids},
    {"ignore_eos", [](JsonReader& j, GenerationState& s) { read_bool(j, s.params.ignore_eos); }},
    {"logit_bias", read_logit_bias},
    {"grammar",
     [](JsonReader& j, GenerationState& s) { read_nonempty_string(j, s.params.grammar); }},
    {"cache_salt",
     [](JsonReader& j, GenerationState& s) { read_nonempty_string(j, s.params.cache_salt); }},
    {"priority",
     [](JsonReader& j, GenerationState& s) { read_int(j, kIntMin, kIntMax, s.params.priority); }},
    {"user", [](JsonReader& j, GenerationState& s) { read_string(j, s.params.user); }},
    {"return_token_ids",
     [](JsonReader& j, GenerationState& s) { read_bool(j, s.params.return_token_ids); }},
    // Other servers' names for what binds an answer: passed over, it would come unbound.
    {"guided_regex", refuse_constraint},
    {"guided_choice", refuse_constraint},
    {"guided_grammar", refuse_constraint},
    {"structured_outputs", refuse_constraint},
    {"regex", refuse_constraint},
    {"ebnf", refuse_constraint},
    // Of OpenAI's own service: storage, billing, abuse handling, speed-ups. An answer is the same
    // without them.
    {"metadata"},
    {"store"},
    {"service_tier"},
    {"prediction"},
    {"verbosity"},
    {"safety_identifier"},
    {"prompt_cache_key"},
    {"prompt_cache_retention"},
}));

}  // namespace

bool read_generation_field(JsonReader& json, std::string_view key, GenerationState& state) {
  return kGenerationFields.read(json, key, state, state.seen);
}

void finish_generation(JsonReader& json, GenerationState& state) {
  GenerationParams& params = state.params;
  std::vector<Token>& stops = params.stop_token_ids;
  std::ranges::sort(stops);
  stops.erase(std::ranges::unique(stops).begin(), stops.end());

  if (params.model.empty()) json.fail_below("model", "missing, expected the name of a model");
  if (state.has_stream_options && !params.stream) {
    json.fail_below("stream_options", "only allowed when stream is true");
  }
  if (params.max_tokens && params.min_tokens > *params.max_tokens) {
    json.fail_below("min_tokens", fmt::format("{} is more than the {} that max_tokens allows",
                                              params.min_tokens, *params.max_tokens));
  }
}

void note_unknown_field(std::string_view key, std::vector<std::string>& unknown_fields) {
  if (unknown_fields.size() < kUnknownFieldsMax) unknown_fields.push_back(shorten(key));
}

}  // namespace penstock::api
