#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "api/internal/field_table.h"
#include "api/internal/json_reader.h"
#include "api/openai.h"

namespace penstock::api {

constexpr std::int64_t kIntMax = std::numeric_limits<std::int32_t>::max();

/// What reading the fields that chat and completions share has found besides their values.
struct GenerationState {
  GenerationParams& params;
  FieldsSeen seen = 0;
  bool has_stream_options = false;
};

/// Reads the field under the cursor if it is one of GenerationParams' own; false: it is not.
bool read_generation_field(JsonReader& json, std::string_view key, GenerationState& state);

/// Once the whole request has been read: brings it into order and checks what no single field can
/// tell.
void finish_generation(JsonReader& json, GenerationState& state);

/// Notes a top-level field that nobody knows.
void note_unknown_field(std::string_view key, std::vector<std::string>& unknown_fields);

}  // namespace penstock::api
