#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/internal/json_text.h"
#include "api/openai.h"
#include "base/check.h"
#include "base/result.h"

namespace penstock::api {

// What must hold of whatever the parsers say; for the fuzz targets.

inline bool is_utf8(std::string_view bytes) { return utf8_error_offset(bytes) == bytes.size(); }

inline void check_error(const Error& error) {
  CHECK(error.code == Code::kInvalidArgument || error.code == Code::kUnprocessable);
  CHECK(!error.message.empty());
  CHECK_LE(error.message.size(), 8192U);  // a path may be kJsonDepthMax shortened names long
  CHECK(is_utf8(error.message));
  CHECK(is_utf8(error.param));
}

inline void check_generation_params(const GenerationParams& params) {
  CHECK(!params.model.empty());
  CHECK(params.n >= 1 && params.n <= kChoicesMax);
  CHECK(!params.max_tokens || *params.max_tokens >= 1);
  CHECK(!params.max_tokens || params.min_tokens <= *params.max_tokens);
  CHECK(params.stream || !params.include_usage);
  const float temperature = params.temperature.value_or(1);
  CHECK(temperature >= 0 && temperature <= 2);
  const float top_p = params.top_p.value_or(1);
  CHECK(top_p > 0 && top_p <= 1);
  const float min_p = params.min_p.value_or(0);
  CHECK(min_p >= 0 && min_p <= 1);
  const float penalty = params.repetition_penalty.value_or(1);
  CHECK(penalty > 0 && penalty <= 2);
  CHECK_LE(params.stop.size(), kStopEntriesMax);
  for (const std::string& stop : params.stop) CHECK(!stop.empty());
  for (const Token token : params.stop_token_ids) CHECK_GE(token, 0);
  CHECK_LE(params.logit_bias.size(), kLogitBiasEntriesMax);
  Token previous = -1;
  for (const auto& [token, bias] : params.logit_bias) {
    CHECK_LT(previous, token);
    CHECK(bias >= -100 && bias <= 100);
    previous = token;
  }
  CHECK_LE(params.unknown_fields.size(), 16U);
  for (const std::string& field : params.unknown_fields) CHECK(is_utf8(field));
}

inline void check_texts_or_tokens(
    const std::vector<std::variant<std::string, std::vector<Token>>>& all) {
  CHECK(!all.empty());
  for (const auto& one : all) {
    CHECK(std::visit([](const auto& held) { return !held.empty(); }, one));
    if (const auto* text = std::get_if<std::string>(&one)) CHECK(is_utf8(*text));
    if (const auto* tokens = std::get_if<std::vector<Token>>(&one)) {
      for (const Token token : *tokens) CHECK_GE(token, 0);
    }
  }
}

}  // namespace penstock::api
