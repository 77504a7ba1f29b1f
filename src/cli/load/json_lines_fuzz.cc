#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "cli/load/prompts.h"
#include "cli/load/trace.h"

// Files that users hand in: a trace or prompts. Whatever is in them, there is an answer, and what
// was taken can be replayed.

using penstock::cli::load::Endpoint;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Endpoint endpoint = (data[0] & 1) != 0 ? Endpoint::kChat : Endpoint::kCompletions;
  if ((data[0] & 2) != 0) {
    const auto trace = penstock::cli::load::parse_trace(text);
    if (!trace) return 0;
    for (std::size_t i = 1; i < trace->size(); ++i) CHECK((*trace)[i - 1].at <= (*trace)[i].at);
  } else {
    const auto prompts = penstock::cli::load::read_prompts(text, endpoint);
    if (!prompts) return 0;
    for (std::uint64_t i = 0; i < (*prompts)->sessions(); ++i) {
      CHECK(!(*prompts)->turn(i, 0).empty());
    }
  }
  return 0;
}
