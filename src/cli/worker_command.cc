#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/descriptors.h"
#include "cli/engine_flags.h"
#include "cli/join_flags.h"
#include "cli/kv_sharing.h"
#include "cli/last_resort.h"
#include "cli/model_path.h"
#include "cli/signals.h"
#include "engine/kv_exchange.h"
#include "engine/remote/engine_server.h"
#include "engine/remote/membership.h"
#include "engine/role.h"

namespace penstock::cli {
namespace {

struct WorkerFlags {
  ProcessFlags process;
  EngineFlags engine;
  std::string join;
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string secret;
  std::string labels;
  std::string role = "both";
};

void declare(Command& command, WorkerFlags& f) {
  command.add_config_file();
  declare_engine(command, "model,--model", f.engine);
  command.group("Worker");
  command.add("--join", f.join, "HOST:PORT of the front end (its --join-listen; needed)");
  command.add("--listen", f.listen, "HOST:PORT to be asked at; port 0: any free one");
  command.add("--advertise", f.advertise,
              "HOST:PORT that the front end reaches --listen at, if it is another");
  command
      .add("--role", f.role,
           "What it is for: prefill (prompts of others), decode (answers) or both; the front end "
           "may change it")
      .one_of({"prefill", "decode", "both"});
  command.add("--join-secret", f.secret,
              "Shared with the front end; needed unless --listen is on the loopback");
  command.add("--labels", f.labels,
              "NAME=VALUE,... that requests may ask for (x-worker-labels: zone=eu)");
  declare_process(command, f.process);
}

/// Where the front end finds this worker: what was said, else where it listens, unless that is
/// every interface (then where its calls come from). Without a port it is the one listened at.
Result<engine::JoinOptions> settle_addresses(const WorkerFlags& f) {
  if (f.join.empty()) {
    return fail(Code::kInvalidArgument, "--join is required: HOST:PORT of a front end");
  }
  if (Result<void> safe = check_secret("--listen", f.listen, f.secret); !safe) {
    return std::unexpected(safe.error());
  }
  if (const Result<HostPort> at = parse_host_port(f.join); !at || at->port == 0) {
    return fail(Code::kInvalidArgument, fmt::format("--join {}: expected HOST:PORT", f.join));
  }
  engine::JoinOptions join{.front_end = f.join, .secret = f.secret, .instance = {}, .host = {}};
  if (f.advertise.empty()) {
    const std::string host = parse_host_port(f.listen)->host;
    if (host != "0.0.0.0" && host != "[::]") join.host = host;
    return join;
  }
  const Result<HostPort> said = parse_host_port(f.advertise);
  if (!said || said->port == 0) {
    return fail(Code::kInvalidArgument,
                fmt::format("--advertise {}: expected HOST:PORT", f.advertise));
  }
  join.host = said->host;
  join.port = said->port;
  return join;
}

/// Loading cannot be told to end at once; a signal meanwhile ends the process.
Result<std::unique_ptr<engine::Engine>> load(const WorkerFlags& flags, serve::ModelOptions options,
                                             const Signals& signals, const Clock& clock) {
  std::atomic<bool> loaded = false;
  std::jthread watcher([&] {
    while (!loaded) {
      if (signals.next(std::chrono::milliseconds(50)) != 0) std::_Exit(0);
    }
  });
  const std::atomic<bool> give_up = false;
  Result<std::string> path = resolve_model(flags.engine.model, give_up);
  Result<std::unique_ptr<engine::Engine>> engine = std::unexpected(Error{});
  if (path) {
    options.path = *path;
    engine = serve::load_engine(options, clock, [](float fraction) {
      show_loading(fraction);
      return true;
    });
  } else {
    engine = std::unexpected(path.error());
  }
  loaded = true;
  return engine;
}

/// The engine's options, with how it shares KV. Fails with what is wrong.
Result<serve::ModelOptions> settle_engine(const WorkerFlags& flags) {
  Result<serve::ModelOptions> options = engine_options(flags.engine, 1);
  if (!options) return options;
  if (!options->simulated && options->llama.reuse_bytes > 0) {
    auto sharing = kv_sharing(flags.engine.kv_transfer, flags.listen, flags.secret);
    if (!sharing) return std::unexpected(sharing.error());
    options->sharing = std::move(*sharing);
  }
  if (flags.role == "prefill" && !options->sharing.outside()) {
    return fail(Code::kInvalidArgument,
                "--role prefill: this worker cannot hand KV over (simulated, --kv-cache-mib 0 or "
                "--kv-transfer none)");
  }
  return options;
}

int run_worker(const WorkerFlags& flags) {
  Result<serve::ModelOptions> options = settle_engine(flags);
  if (!options) return refuse("worker", options.error(), 2);
  if (Result<void> level = apply_log_level(flags.process); !level) {
    return refuse("worker", level.error(), 2);
  }
  Result<engine::JoinOptions> join = settle_addresses(flags);
  if (!join) return refuse("worker", join.error(), 2);

  Result<Labels> labels = parse_labels(flags.labels);
  if (!labels) {
    return refuse("worker", Error{Code::kInvalidArgument, "--labels " + labels.error().message}, 2);
  }
  join->labels = std::move(*labels);

  if (options->sharing.outside()) {
    const Result<void> opened = open_kv_sharing(flags.engine.kv_transfer, options->sharing);
    if (!opened) return refuse("worker", opened.error(), 1);
  }
  const Result<void> folder = tiers::make_folder(options->store.disk_folder);
  if (!folder) return refuse("worker", folder.error(), 1);
  const std::uint64_t files = store_descriptors(options->store) + kOtherDescriptors;
  const std::uint64_t for_others =
      options->sharing.outside() ? engine::KvExchange::kDescriptorsMax : 0;
  if (const std::uint64_t may = allow_descriptors(files + for_others); may < files) {
    log::warn("--kv-disk-mib {}: takes {} open files, this process may have {} (ulimit -n)",
              flags.engine.kv_disk_mib, files, may);
  }
  const Signals signals;
  const SteadyClock clock;
  Result<std::unique_ptr<engine::Engine>> engine = load(flags, *options, signals, clock);
  if (!engine) {  // what this model cannot do with these settings, it cannot do the next time
                  // either
    return refuse("worker", engine.error(), engine.error().code == Code::kUnprocessable ? 2 : 1);
  }
  if (flags.role == "prefill") {
    const Result<void> fine = serve::check_keeps_kv((*engine)->info());
    if (!fine) return refuse("worker", fine.error(), 2);
  }
  join->instance = engine::new_instance();
  join->info = (*engine)->info();
  join->role = engine::find_role(flags.role).value();
  join->tells_kv_events = (*engine)->kv_events() != nullptr;
  Result<std::unique_ptr<engine::EngineServer>> server = engine::EngineServer::start(
      {.address = flags.listen, .instance = join->instance, .secret = flags.secret}, **engine,
      clock);
  if (!server) return refuse("worker", server.error(), 1);
  if (join->port == 0) join->port = (*server)->port();
  fmt::print("worker {} listening on {}:{}\n", join->instance, parse_host_port(flags.listen)->host,
             (*server)->port());
  std::fflush(stdout);
  std::clearerr(stdout);  // whoever started this may not care to read it

  std::unique_ptr<engine::Joining> place = engine::Joining::start(*join);
  while (signals.next(std::chrono::milliseconds(200)) == 0) {
  }
  place->drain();
  const TimePoint until = clock.now() + from_seconds(flags.process.drain_timeout_s);
  if ((*server)->live() > 0) {
    log::info("finishing {} running requests (at most {:.0f} s; a second signal ends them now)",
              (*server)->live(), flags.process.drain_timeout_s);
  }
  while ((*server)->live() > 0 && clock.now() < until) {
    if (signals.next(std::chrono::milliseconds(20)) != 0) break;
  }
  const LastResort last_resort(signals, clock);
  (*server)->drain();
  place.reset();  // leaves
  server->reset();
  engine->reset();
  return 0;
}

}  // namespace

void add_worker(CommandLine& line) {
  auto flags = std::make_shared<WorkerFlags>();
  Command& command = line.add_command(
      "worker",
      "Serve a model to a front end (penstock serve --join-listen) as a process of its own.\n"
      "It joins, and joins again whenever the front end was gone; speaks openengine.v1 over gRPC",
      "PENSTOCK_");
  declare(command, *flags);
  command.on_run([flags] { return run_worker(*flags); });
}

}  // namespace penstock::cli
