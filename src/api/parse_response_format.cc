#include <array>
#include <string>

#include "api/internal/chat_fields.h"
#include "api/internal/field_table.h"
#include "api/internal/read_value.h"

namespace penstock::api {
namespace {

struct FormatState {
  ResponseFormat& format;
  bool has_type = false;
  bool has_json_schema = false;
  std::string json_schema;  // json_schema.schema
  std::string schema;       // beside the type, as llama-server takes it for "json_object"
};

void read_type(JsonReader& json, FormatState& state) {
  // In the order of ResponseFormat::Kind.
  static constexpr std::array<std::string_view, 3> kNames = {"text", "json_object", "json_schema"};
  std::size_t kind = 0;
  state.has_type = read_choice(json, kNames, kind);
  if (state.has_type) state.format.kind = static_cast<ResponseFormat::Kind>(kind);
}

void read_json_schema(JsonReader& json, FormatState& state) {
  struct Schema {
    std::string name;
    std::string& schema;
    bool strict = false;  // a schema is always enforced
    std::string description;
  };
  static constexpr FieldTable kFields(std::to_array<Field<Schema>>({
      {"name", [](JsonReader& j, Schema& s) { read_nonempty_string(j, s.name); }},
      {"schema", [](JsonReader& j, Schema& s) { read_object_text(j, s.schema); }},
      {"strict", [](JsonReader& j, Schema& s) { read_bool(j, s.strict); }},
      {"description", [](JsonReader& j, Schema& s) { read_string(j, s.description); }},
  }));
  Schema schema{{}, state.json_schema};
  kFields.read_object(json, schema);
  state.has_json_schema = true;
  if (schema.name.empty()) json.fail_below("name", "missing, expected the schema's name");
  if (schema.schema.empty()) json.fail_below("schema", "missing, expected a JSON schema");
}

constexpr FieldTable kFormatFields(std::to_array<Field<FormatState>>({
    {"type", read_type},
    {"json_schema", read_json_schema},
    {"schema", [](JsonReader& j, FormatState& s) { read_object_text(j, s.schema); }},
}));

}  // namespace

void read_response_format(JsonReader& json, ResponseFormat& format) {
  FormatState state{format};
  kFormatFields.read_object(json, state);
  const bool wants_schema = format.kind == ResponseFormat::Kind::kJsonSchema;
  if (!state.has_type) {
    json.fail_below("type", "missing, expected \"text\", \"json_object\" or \"json_schema\"");
  }
  if (wants_schema && !state.has_json_schema) {
    json.fail_below("json_schema", "missing, expected an object with name and schema");
  }
  if (!wants_schema && state.has_json_schema) {
    json.fail_below("json_schema", "only allowed with type \"json_schema\"");
  }
  if (!state.schema.empty() && format.kind != ResponseFormat::Kind::kJsonObject) {
    json.fail_below("schema", "only allowed with type \"json_object\"");
  }
  if (wants_schema) {
    format.schema = std::move(state.json_schema);
  } else if (!state.schema.empty()) {
    format.kind = ResponseFormat::Kind::kJsonSchema;
    format.schema = std::move(state.schema);
  }
}

}  // namespace penstock::api
