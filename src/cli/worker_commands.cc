#include "cli/worker_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string_view>
#include <thread>

#include "serve/dispatcher.h"

namespace penstock::cli {
namespace {

std::vector<std::string> engine_arguments(const EngineFlags& f, std::uint32_t workers,
                                          std::uint32_t index) {
  std::vector<std::string> made;
  const auto add = [&made](const char* name, const auto& value) {
    made.emplace_back(name);
    made.push_back(fmt::format("{}", value));
  };
  if (f.context) add("--context", *f.context);
  if (f.queue) add("--queue", *f.queue);
  if (f.step_tokens) add("--step-tokens", *f.step_tokens);
  add("--block-tokens", f.llama.block_tokens);
  if (f.simulated()) {
    add("--sequences", f.sequences);
    add("--kv-blocks", f.kv_blocks);
    add("--speedup", f.speedup);
    return made;
  }
  const std::uint32_t cores = std::max(1U, std::thread::hardware_concurrency());
  const std::uint32_t sequences = f.sequences != 0 ? f.sequences : std::max(2U, 8 / workers);
  const std::uint32_t threads =
      f.llama.threads != 0 ? f.llama.threads : std::max(1U, cores / workers);
  add("--sequences", sequences);
  add("--kv-cache-mib", f.kv_cache_mib / workers);
  if (!f.kv_disk.empty()) {
    add("--kv-disk", fmt::format("{}/worker-{}", f.kv_disk, index));
    add("--kv-disk-mib", std::max<std::uint64_t>(1, f.kv_disk_mib / workers));
    if (f.kv_disk_writes_gib > 0) {
      add("--kv-disk-writes-gib", std::max<std::uint64_t>(1, f.kv_disk_writes_gib / workers));
    }
  }
  if (f.kv_host_mib > 0) add("--kv-host-mib", std::max<std::uint64_t>(1, f.kv_host_mib / workers));
  add("--kv-type", f.kv_type);
  add("--kv-transfer", f.kv_transfer);
  add("--threads", threads);
  add("--slice-ms", f.llama.slice_ms);
  if (f.llama.exact) made.emplace_back("--exact");
  return made;
}

/// What this process was told by its environment, those are told by their flags.
std::vector<std::string> environment(const std::string& secret) {
  std::vector<std::string> made{"PENSTOCK_JOIN_SECRET=" + secret};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (!text.starts_with("PENSTOCK_") || text.starts_with("PENSTOCK_CACHE=")) {
      made.emplace_back(text);
    }
  }
  return made;
}

}  // namespace

std::vector<ProcessCommand> worker_commands(const WorkerSettings& s) {
  const std::string model = s.engine.simulated() ? s.engine.model : s.model_path;
  std::vector<ProcessCommand> commands;
  for (std::uint32_t i = 0; i < s.workers; ++i) {
    const fleet::Role role = i < s.roles.size() ? s.roles[i] : fleet::Role::kBoth;
    Labels labels{{std::string(serve::kProcessLabel), std::to_string(i)}};
    labels.insert(labels.end(), s.labels.begin(), s.labels.end());
    ProcessCommand& command = commands.emplace_back();
    // This very build, also when another one has taken its place since.
    command.program = "/proc/self/exe";
    command.arguments = {"penstock",
                         "worker",
                         model,
                         "--join",
                         s.join,
                         "--role",
                         std::string(to_string(role)),
                         "--labels",
                         format_labels(labels),
                         "--log-level",
                         s.process.log_level,
                         "--drain-timeout-s",
                         fmt::format("{}", s.process.drain_timeout_s)};
    std::ranges::move(engine_arguments(s.engine, s.workers, i),
                      std::back_inserter(command.arguments));
    command.environment = environment(s.secret);
  }
  return commands;
}

}  // namespace penstock::cli
