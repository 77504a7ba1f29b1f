#pragma once

#include <string>
#include <string_view>

#include "cli/load/options.h"

namespace penstock::cli::load {

/// /v1/chat/completions or /v1/completions
[[nodiscard]] std::string_view path_of(Endpoint endpoint) noexcept;

/// The JSON body of a request. `history` is what PromptSource::turn() and the answers added up to:
/// messages with commas between them, or bare text.
[[nodiscard]] std::string request_body(const RequestOptions& options, std::string_view history,
                                       std::uint32_t max_tokens);

/// Continues `history` with what the server said.
void append_answer(std::string& history, Endpoint endpoint, std::string_view text);

/// Continues `history` with what the next turn says.
void append_turn(std::string& history, Endpoint endpoint, std::string_view turn);

}  // namespace penstock::cli::load
