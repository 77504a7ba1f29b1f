#pragma once

#include <vector>

#include "api/internal/json_reader.h"
#include "api/openai.h"

namespace penstock::api {

/// Readers of a chat request's larger fields; each reads the value under the cursor.
void read_messages(JsonReader& json, std::vector<ChatMessage>& messages);
void read_tools(JsonReader& json, std::vector<Tool>& tools);
void read_tool_choice(JsonReader& json, ToolChoice& choice);
void read_response_format(JsonReader& json, ResponseFormat& format);

/// Whether `choice` can be met with `tools`, once both are known.
void check_tool_choice(JsonReader& json, const ToolChoice& choice, const std::vector<Tool>& tools);

}  // namespace penstock::api
