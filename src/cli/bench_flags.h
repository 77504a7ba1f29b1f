#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/command_line.h"
#include "cli/load/options.h"
#include "cli/load/prompts.h"
#include "cli/load/trace.h"

namespace penstock::cli {

/// Everything the flags of `penstock bench` set. Zero means "not given" where the help says so.
struct BenchFlags {
  std::string url = "http://127.0.0.1:8000";
  std::string endpoint = "chat";
  std::string model;
  std::string api_key;
  double timeout_s = 600;

  std::uint32_t concurrency = 0;
  double rate_per_s = 0;
  std::string arrivals = "poisson";
  std::string trace_file;
  double speed = 1;
  std::uint32_t trace_block_tokens = 512;
  std::uint32_t in_flight_max = 4096;
  double duration_s = 0;
  std::uint64_t requests = 0;
  double warm_up_s = 0;
  std::uint32_t threads = 1;

  std::uint32_t prompt_tokens = 128;
  std::uint64_t prompt_bytes = 0;
  std::uint32_t shared_prefix_tokens = 0;
  std::uint32_t prefix_groups = 1;
  std::string prompts_file;
  std::uint32_t turns = 1;
  std::uint32_t max_tokens = 64;
  std::optional<double> temperature;
  std::optional<std::uint32_t> seed;
  bool ignore_eos = false;
  bool stream = true;

  double slo_ttft_ms = 0;
  double slo_itl_ms = 0;
  bool json = false;
  bool progress = false;
  bool allow_errors = false;
};

/// Adds the flags to `command`: each with its range, default, environment name and help.
void declare(Command& command, BenchFlags& flags);

/// A run, ready to start. The model is still empty if it was not given.
struct BenchPlan {
  load::LoadOptions options;
  std::vector<load::TraceRequest> trace;        // may be empty
  std::unique_ptr<load::PromptSource> prompts;  // refers to `trace`'s elements
};

/// Turns what was typed into a plan; reads the files it names. Fails with what does not go together
/// or cannot be read, in terms of the flags. The plan's address must not change afterwards.
Result<std::unique_ptr<BenchPlan>> settle(const BenchFlags& flags);

}  // namespace penstock::cli
