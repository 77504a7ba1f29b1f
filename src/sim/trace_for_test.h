#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "sim/trace_readers.h"

namespace penstock::sim {

/// The Mooncake conversation trace (its first `requests_max` requests), from $PENSTOCK_TRACES or
/// from shared/data beside the source tree. Absent: it is not here.
inline std::optional<Trace> conversation(std::size_t requests_max) {
  std::filesystem::path folder;
  if (const char* set = std::getenv("PENSTOCK_TRACES")) {  // NOLINT(concurrency-mt-unsafe)
    folder = set;
  } else {
    std::filesystem::path tree = __FILE__;  // <tree>/src/sim/trace_for_test.h
    for (int up = 0; up < 3; ++up) tree = tree.parent_path();
    folder = tree / ".." / "shared" / "data";
  }
  std::ifstream file(folder / "mooncake_conversation.jsonl");
  if (!file) return std::nullopt;
  Result<Trace> trace = read_mooncake(file, "conversation", {.requests_max = requests_max});
  if (!trace) return std::nullopt;
  return std::move(*trace);
}

}  // namespace penstock::sim

#define PENSTOCK_SKIP_WITHOUT(trace)                                                         \
  if (!(trace))                                                                              \
  GTEST_SKIP() << "the Mooncake conversation trace is not here: set PENSTOCK_TRACES to the " \
                  "folder that holds mooncake_conversation.jsonl"
