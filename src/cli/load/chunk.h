#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::cli::load {

enum class Endpoint : std::uint8_t { kChat, kCompletions };

struct Usage {
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;  // of prompt_tokens
  std::uint64_t output_tokens = 0;
};

/// What one JSON object of an answer says: an event of a stream, or a whole answer.
struct Chunk {
  bool has_content = false;  // text, reasoning or a piece of a tool call, not empty
  std::string_view text;     // the visible text; valid until the next parse
  bool finished = false;     // there is a finish_reason
  std::optional<Usage> usage;
  std::optional<std::string> error;  // it is an error object: its message
};

/// Reads what servers answer. Lenient: what is missing or of another type counts as absent, as
/// servers differ. Keeps its buffers, so one is shared by all answers of a thread. Not thread safe.
class ChunkParser final {
 public:
  ChunkParser();
  ~ChunkParser();
  ChunkParser(const ChunkParser&) = delete;
  ChunkParser& operator=(const ChunkParser&) = delete;

  /// Fails (kInvalidArgument) if `json` is no JSON object. `stream` tells events ("delta") from
  /// whole answers ("message"); completions have "text" in both.
  Result<Chunk> parse(std::string_view json, Endpoint endpoint, bool stream);

  /// The "id" of the first entry of GET /v1/models. Fails with what is missing.
  Result<std::string> parse_first_model(std::string_view json);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace penstock::cli::load
