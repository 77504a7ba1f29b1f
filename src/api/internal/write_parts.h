#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/openai.h"

namespace penstock::api {

/// Pieces that chat and completion answers have in common; all append to `out`.

/// {"id":"...","object":"...","created":0,"model":"...","system_fingerprint":"...","choices":[
void append_head(std::string& out, const AnswerHead& head, std::string_view object);

/// {"prompt_tokens":..., ...}
void append_usage(std::string& out, const UsageCounts& usage);

/// [1,2,3]
void append_tokens(std::string& out, const std::vector<Token>& tokens);

/// ,"name":[1,2,3] unless there are none.
void append_token_field(std::string& out, std::string_view name, const std::vector<Token>* tokens);

/// As JSON: finite, -9999.0 at the lowest and for what is unknown.
void append_logprob(std::string& out, float logprob);

/// The last chunk of a stream that was asked for usage: no choices, only numbers.
void append_usage_event(std::string& out, std::string_view open, const UsageCounts& usage);

/// What closes a streamed choice and its event.
[[nodiscard]] std::string_view stream_close(bool include_usage) noexcept;

}  // namespace penstock::api
