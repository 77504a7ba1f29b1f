#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/labels.h"
#include "cli/engine_flags.h"
#include "cli/worker_processes.h"
#include "fleet/worker_state.h"

namespace penstock::cli {

/// What `serve --processes` was told of its workers.
struct WorkerSettings {
  const EngineFlags& engine;
  const ProcessFlags& process;
  std::string model_path;  // of the file that engine.model stands for
  std::uint32_t workers = 1;
  const std::vector<fleet::Role>& roles;  // of the first ones; the others: kBoth
  const Labels& labels;                   // that all of them have
  std::string join;                       // HOST:PORT
  std::string secret;
};

/// This program as `penstock worker`, once for each worker: what they share in one process is
/// divided among them, and a folder on disk has one for each. The secret goes by the environment,
/// which only this user can read.
[[nodiscard]] std::vector<ProcessCommand> worker_commands(const WorkerSettings& settings);

}  // namespace penstock::cli
