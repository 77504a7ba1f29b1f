#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "cli/command_line.h"
#include "serve/served_model.h"

namespace penstock::cli {

/// What `serve` and `worker` let be said of their process.
struct ProcessFlags {
  double drain_timeout_s = 30;
  std::string log_level = "info";
};

/// Their flags, in the group of the moment.
void declare_process(Command& command, ProcessFlags& flags);
/// Sets the log's level. Fails with what is wrong.
Result<void> apply_log_level(const ProcessFlags& flags);

/// What `serve` and `worker` let be said of the engines that they run. Absent: the engine's own.
struct EngineFlags {
  std::string model;
  std::uint32_t sequences = 0;
  std::optional<std::uint32_t> context;
  std::optional<std::uint32_t> queue;
  std::optional<std::uint32_t> step_tokens;
  std::uint32_t kv_blocks = 16384;
  std::uint64_t kv_cache_mib = 1024;
  std::string kv_disk;
  std::uint64_t kv_disk_mib = 8192;
  std::uint64_t kv_host_mib = 0;
  std::uint64_t kv_disk_writes_gib = 0;
  std::string kv_type = "f16";
  std::string kv_transfer = "auto";
  std::string speedup = "1";
  engine::LlamaOptions llama;

  [[nodiscard]] bool simulated() const { return model == "simulated"; }
  const Command* command = nullptr;  // which they were declared in, and outlives them
};

/// The flags under "Engine", and the model by `model_names` ("--model").
void declare_engine(Command& command, const char* model_names, EngineFlags& flags);

/// The options of `workers` engines. Fails with what is wrong.
Result<serve::ModelOptions> engine_options(const EngineFlags& flags, std::uint32_t workers);

/// Files that the engines' KV store holds open at most.
[[nodiscard]] std::uint64_t store_descriptors(const tiers::Options& store);

/// A bar on a terminal, nothing elsewhere. `fraction` in [0, 1]; less: nothing.
void show_loading(float fraction);

}  // namespace penstock::cli
