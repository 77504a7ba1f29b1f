#include "cli/engine_flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <utility>

#include "base/log.h"
#include "cli/model_path.h"
#include "tiers/record.h"

namespace penstock::cli {
namespace {

constexpr std::uint64_t kKvHostMib = 256;  // beside --kv-disk, unless said otherwise
constexpr std::uint32_t kContextTokensMin = 64;

/// Flags of what the simulated engine has not, and of what it alone has.
constexpr const char* kOfModels[] = {
    "--kv-cache-mib", "--kv-disk",     "--kv-disk-mib", "--kv-disk-writes-gib", "--kv-host-mib",
    "--kv-type",      "--kv-transfer", "--threads",     "--slice-ms",           "--exact"};
constexpr const char* kOfDisk[] = {"--kv-disk-mib", "--kv-disk-writes-gib"};
constexpr const char* kOfSimulated[] = {"--speedup", "--kv-blocks"};
constexpr const char* kOfBoth[] = {"--sequences", "--context", "--block-tokens", "--queue",
                                   "--step-tokens"};

}  // namespace

void declare_process(Command& command, ProcessFlags& f) {
  command
      .add("--drain-timeout-s", f.drain_timeout_s,
           "How long running answers may take after SIGTERM, seconds; a second signal ends them")
      .range(0.0, 1e6);
  command.add("--log-level", f.log_level, "debug, info, warn, error or off");
}

Result<void> apply_log_level(const ProcessFlags& f) {
  const Result<log::Level> level = log::parse_level(f.log_level);
  if (!level) return std::unexpected(level.error());
  log::set_level(*level);
  return {};
}

void declare_engine(Command& command, const char* model_names, EngineFlags& f) {
  f.command = &command;
  command.group("Model");
  command.add(model_names, f.model, "demo, simulated, a .gguf file, or a folder with one (needed)");
  command.group("Engine");
  command
      .add("--sequences", f.sequences,
           "Requests computed at once by a worker, which sets memory aside for --context tokens of "
           "each (23 kB a token for the demo model); 0: 8, divided among workers (simulated: 256)")
      .range(0, 256);
  command
      .add_optional("--context", f.context,
                    "Tokens of prompt and answer together, a sequence; memory for them times "
                    "--sequences is set aside (default: 4096; simulated: 131072, and no memory)")
      .range<std::uint32_t>(kContextTokensMin, 1 << 24);
  command.add("--block-tokens", f.llama.block_tokens, "Tokens in a reusable KV block")
      .range(1, 4096);
  command
      .add("--kv-cache-mib", f.kv_cache_mib,
           "Host memory for KV of earlier prompts, all workers, MiB; 0: no reuse")
      .range(0, 1 << 24);
  command.add("--kv-disk", f.kv_disk,
              "Folder for KV of prompts that is there again after a restart (default: none)");
  command.add("--kv-disk-mib", f.kv_disk_mib, "Files in --kv-disk take at most, MiB")
      .range(1, 1 << 28);
  command
      .add("--kv-disk-writes-gib", f.kv_disk_writes_gib,
           "Written to --kv-disk a day at most, GiB, for the disk's sake; 0: no limit")
      .range(0, 1 << 20);
  command
      .add("--kv-host-mib", f.kv_host_mib,
           "Host memory between the workers' KV and --kv-disk, shared by them, MiB; 0: 256 with "
           "--kv-disk, else none")
      .range(0, 1 << 24);
  command.add("--kv-type", f.kv_type, "Precision of KV: f16 or q8_0 (half the memory)")
      .one_of({"f16", "q8_0"});
  command
      .add("--kv-transfer", f.kv_transfer,
           "How KV goes to workers of other processes: shm (on this host), tcp (needs a "
           "--join-secret of 16 characters), auto (both) or none")
      .one_of({"auto", "shm", "tcp", "none"});
  command
      .add("--threads", f.llama.threads, "Compute threads a worker; 0: cores divided among workers")
      .range(0, 1024);
  command
      .add_optional("--queue", f.queue,
                    "Requests waiting at a worker before 429 (default: 256; simulated: 1024)")
      .range(1, 1 << 20);
  command
      .add_optional("--step-tokens", f.step_tokens,
                    "Prompt tokens a worker computes between two looks at its queue (default: 512; "
                    "simulated: 8192)")
      .range(64, 8192);
  command
      .add("--slice-ms", f.llama.slice_ms,
           "Prompt work that running answers wait for at a time, ms (aim)")
      .range(1, 60000);
  command.add_switch("--exact", f.llama.exact,
                     "Every token as if its request ran alone (slower when many run)");
  command.add("--speedup", f.speedup,
              "Of --model simulated: 1 is real time, N is N times faster, max never waits");
  command
      .add("--kv-blocks", f.kv_blocks,
           "Of --model simulated: KV blocks of a worker, for what runs and what is kept")
      .range(1, 1 << 22);
}

namespace {

using Names = std::span<const char* const>;

const char* first_given(const EngineFlags& f, Names names) {
  for (const char* flag : names) {
    if (f.command->given(flag)) return flag;
  }
  return nullptr;
}

/// Whoever set a flag believes that it does something.
Result<void> check_meaning(const EngineFlags& f, std::uint32_t workers) {
  if (workers == 0) {
    for (const Names names : {Names(kOfBoth), Names(kOfModels), Names(kOfSimulated)}) {
      if (const char* flag = first_given(f, names)) {
        return fail(Code::kInvalidArgument,
                    fmt::format("{} means nothing with --workers 0: give it to the workers that "
                                "join (penstock worker {} ...)",
                                flag, flag));
      }
    }
  }
  if (const char* flag = first_given(f, f.simulated() ? Names(kOfModels) : Names(kOfSimulated))) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} means nothing to --model {}: leave it out{}", flag, f.model,
                            f.simulated() ? ", or name a model with weights"
                                          : " (only --model simulated has it)"));
  }
  if (const char* flag = f.kv_disk.empty() ? first_given(f, kOfDisk) : nullptr) {
    return fail(Code::kInvalidArgument,
                fmt::format("{} means nothing without --kv-disk FOLDER, where KV is kept", flag));
  }
  return {};
}

Result<engine::SimulatedOptions> simulated_options(const EngineFlags& f) {
  engine::SimulatedOptions options;
  engine::simulated::ModelOptions& worker = options.worker;
  if (f.sequences != 0) worker.sequences_max = f.sequences;
  worker.block_tokens = f.llama.block_tokens;
  worker.kv_blocks = f.kv_blocks;
  worker.pass_tokens_max = f.step_tokens.value_or(worker.pass_tokens_max);
  options.context_tokens_max = f.context.value_or(options.context_tokens_max);
  options.queue_max = f.queue.value_or(options.queue_max);
  // What nobody asked for by a number may be less where the blocks hold less.
  const std::uint32_t needed = f.context.value_or(kContextTokensMin);
  if (std::uint64_t{f.kv_blocks} * f.llama.block_tokens < needed) {
    return fail(Code::kInvalidArgument,
                fmt::format("--kv-blocks {}: with --block-tokens {} they hold fewer tokens than "
                            "the {} of a sequence",
                            f.kv_blocks, f.llama.block_tokens, needed));
  }
  if (f.speedup == "max") {
    worker.speedup = engine::SimulatedOptions::kSpeedupMax;
    return options;
  }
  char* end = nullptr;
  worker.speedup = std::strtod(f.speedup.c_str(), &end);
  if (end == f.speedup.c_str() || *end != '\0' || !(worker.speedup > 0) ||
      !std::isfinite(worker.speedup)) {
    return fail(Code::kInvalidArgument,
                fmt::format("--speedup {}: expected a number above 0, or max", f.speedup));
  }
  return options;
}

}  // namespace

Result<serve::ModelOptions> engine_options(const EngineFlags& f, std::uint32_t workers) {
  if (f.model.empty()) {
    return fail(Code::kInvalidArgument,
                "--model is required: demo, simulated, a .gguf file, or a folder with one");
  }
  if (const Result<std::string> found = find_model(f.model); !found) {
    return std::unexpected(found.error());
  }
  if (const Result<void> fine = check_meaning(f, workers); !fine) {
    return std::unexpected(fine.error());
  }
  serve::ModelOptions model;
  model.workers = workers;
  if (f.simulated()) {
    Result<engine::SimulatedOptions> simulated = simulated_options(f);
    if (!simulated) return std::unexpected(simulated.error());
    model.simulated = std::move(*simulated);
    return model;
  }
  model.llama = f.llama;
  model.llama.sequences_max =
      f.sequences != 0 ? f.sequences : std::max(2U, 8 / std::max(1U, workers));
  model.llama.context_tokens = f.context.value_or(model.llama.context_tokens);
  model.llama.queue_max = f.queue.value_or(model.llama.queue_max);
  model.llama.step_tokens = f.step_tokens.value_or(model.llama.step_tokens);
  model.llama.reuse_bytes = f.kv_cache_mib << 20;
  model.llama.quantized_kv = f.kv_type == "q8_0";
  model.store.disk_folder = f.kv_disk;
  model.store.disk_bytes = f.kv_disk.empty() ? 0 : f.kv_disk_mib << 20;
  model.store.segment_bytes = tiers::segment_bytes_for(model.store.disk_bytes);
  model.store.wear_bytes_per_day = f.kv_disk_writes_gib << 30;
  model.store.host_bytes = (f.kv_host_mib == 0 && !f.kv_disk.empty() ? kKvHostMib : f.kv_host_mib)
                           << 20;
  if (model.store.host_bytes > 0 && f.kv_cache_mib == 0) {
    return fail(Code::kInvalidArgument,
                "--kv-disk and --kv-host-mib stand behind --kv-cache-mib, which is 0");
  }
  return model;
}

std::uint64_t store_descriptors(const tiers::Options& store) {
  return store.disk_folder.empty() ? 0 : store.disk_bytes / store.segment_bytes + 1;
}

void show_loading(float fraction) {
  if (fraction < 0 || isatty(STDERR_FILENO) == 0) return;
  constexpr int kWidth = 40;
  const int filled = static_cast<int>(fraction * kWidth);
  fmt::print(stderr, "\rloading [{:#<{}}{:.<{}}] {:3.0f} %", "", filled, "", kWidth - filled,
             100 * fraction);
  if (fraction >= 1) fmt::print(stderr, "\n");
  std::fflush(stderr);
}

}  // namespace penstock::cli
