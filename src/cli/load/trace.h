#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace penstock::cli::load {

/// One line of a Mooncake trace: {"timestamp": ms, "input_length": tokens, "output_length": tokens,
/// "hash_ids": [...]}. Each id stands for a block of the prompt; equal ids mean equal text.
struct TraceRequest {
  Nanos at{};  // after the first request of the trace
  std::uint32_t input_tokens = 0;
  std::uint32_t output_tokens = 0;  // at least 1
  std::vector<std::uint64_t> blocks;
};

inline constexpr std::uint32_t kTraceTokensMax = 16U << 20;  // of one prompt or answer

/// Reads a whole trace; other fields are passed over, empty lines too. The result is in order of
/// time, requests of one moment in the order of the file. Fails with the number of the first bad
/// line and what is wrong with it, or when there is no request at all. No I/O.
Result<std::vector<TraceRequest>> parse_trace(std::string_view text);

}  // namespace penstock::cli::load
