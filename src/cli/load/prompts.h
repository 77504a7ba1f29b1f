#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/load/chunk.h"
#include "cli/load/trace.h"

namespace penstock::cli::load {

/// What the sessions of a run say. Immutable, so any thread may ask; the same session and turn give
/// the same text for ever.
class PromptSource {
 public:
  virtual ~PromptSource() = default;

  /// What is new in turn `turn` (from 0) of a session, in the endpoint's form: for chat JSON
  /// messages with commas between them, for completions bare text.
  [[nodiscard]] virtual std::string turn(std::uint64_t session, std::uint32_t turn) const = 0;

  /// How long the answers of a session may be, if this source has an opinion; else 0.
  [[nodiscard]] virtual std::uint32_t output_tokens(std::uint64_t session) const = 0;

  /// After so many sessions it repeats itself; 0: never.
  [[nodiscard]] virtual std::uint64_t sessions() const = 0;
};

/// {"role":...,"content":...}
void append_message(std::string& out, std::string_view role, std::string_view content);

struct GeneratedPrompts {
  Endpoint endpoint = Endpoint::kChat;
  std::uint64_t seed = 0;
  std::uint32_t tokens = 128;              // of each turn, approximately
  std::uint64_t size_bytes = 0;            // instead of tokens, exactly; 0: tokens
  std::uint32_t shared_prefix_tokens = 0;  // of a system prompt (completions: of a beginning)
  std::uint64_t prefix_groups = 1;         // each session draws one of so many prefixes
};
std::unique_ptr<PromptSource> make_generated_prompts(const GeneratedPrompts& spec);

/// JSON lines: an array of messages, a string, or an object with "messages" or "prompt". Messages
/// are sent as they stand. Fails with the number of the first bad line, and for messages when the
/// endpoint is completions.
Result<std::unique_ptr<PromptSource>> read_prompts(std::string_view text, Endpoint endpoint);

/// Each block id of the trace becomes the same `block_tokens` words wherever it stands; what the
/// ids do not cover is unique to the request. `trace` must outlive the source.
struct TracePrompts {
  Endpoint endpoint = Endpoint::kChat;
  std::uint64_t seed = 0;
  std::uint32_t block_tokens = 512;
};
std::unique_ptr<PromptSource> make_trace_prompts(const TracePrompts& spec,
                                                 const std::vector<TraceRequest>& trace);

}  // namespace penstock::cli::load
