#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <string_view>

#include "base/result.h"
#include "sim/trace.h"

namespace penstock::sim {

struct ReadOptions {
  std::uint32_t block_tokens = 512;     // tokens that a hash id of a Mooncake trace stands for
  std::size_t requests_max = SIZE_MAX;  // stop after so many
};

/// Reads a trace line by line; only what Trace keeps stays in memory. `name` is what errors call
/// the source: a bad line fails as NAME:LINE with what is wrong there; so does a source without any
/// request. Blank lines are passed over.
///
/// Mooncake: JSON lines {"timestamp": ms, "input_length", "output_length", "hash_ids": [...]};
/// other fields are passed over.
Result<Trace> read_mooncake(std::istream& in, std::string_view name, const ReadOptions& options);

/// Azure's LLM inference traces: CSV with a head that names TIMESTAMP, ContextTokens and
/// GeneratedTokens in any order; times are "2023-11-16 18:17:03.9799600" or with a time zone, or
/// plain seconds. Prompts share nothing.
Result<Trace> read_azure(std::istream& in, std::string_view name, const ReadOptions& options);

/// One or the other: a Mooncake trace's first line begins with '{'.
Result<Trace> read_trace(std::istream& in, std::string_view name, const ReadOptions& options);

}  // namespace penstock::sim
