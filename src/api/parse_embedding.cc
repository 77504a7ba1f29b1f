#include <array>
#include <limits>

#include "api/internal/generation_fields.h"
#include "api/internal/read_value.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

void read_encoding(JsonReader& json, EmbeddingRequest& request) {
  static constexpr std::array<std::string_view, 2> kNames = {"float", "base64"};
  std::size_t choice = 0;
  if (read_choice(json, kNames, choice)) request.base64 = choice == 1;
}

constexpr std::int64_t kDimensionsMax = std::numeric_limits<std::int32_t>::max();

using Request = EmbeddingRequest;
constexpr FieldTable kEmbeddingFields(std::to_array<Field<Request>>({
    {"model", [](JsonReader& j, Request& r) { read_nonempty_string(j, r.model); }},
    {"input",
     [](JsonReader& j, Request& r) { read_texts_or_tokens(j, kEmbeddingInputsMax, r.inputs); }},
    {"encoding_format", read_encoding},
    {"dimensions",
     [](JsonReader& j, Request& r) { read_int(j, 1, kDimensionsMax, r.dimensions.emplace()); }},
    {"user"},
    {"metadata"},
}));

}  // namespace

Result<EmbeddingRequest> parse_embedding_request(std::string_view body) {
  EmbeddingRequest request;
  JsonReader json(body);
  FieldsSeen seen = 0;
  std::string_view key;
  while (json.next_field(key)) {
    if (!kEmbeddingFields.read(json, key, request, seen))
      note_unknown_field(key, request.unknown_fields);
  }
  if (request.model.empty()) json.fail_below("model", "missing, expected the name of a model");
  if (request.inputs.empty()) {
    json.fail_below("input", "missing, expected a string, an array of strings or token ids");
  }
  if (!json.ok()) return std::unexpected(json.take_error());
  return request;
}

}  // namespace penstock::api
