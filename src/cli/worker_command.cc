#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "base/clock.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/config_file.h"
#include "cli/descriptors.h"
#include "cli/engine_flags.h"
#include "cli/join_flags.h"
#include "cli/model_path.h"
#include "cli/signals.h"
#include "engine/remote/engine_server.h"
#include "engine/remote/membership.h"

namespace penstock::cli {
namespace {

struct WorkerFlags {
  std::string config_file;
  EngineFlags engine;
  std::string join;
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string secret;
  double drain_timeout_s = 30;
  std::string log_level = "info";
};

void declare(CLI::App& sub, WorkerFlags& f) {
  FlagTable table(sub, "PENSTOCK_");
  const auto add = [&](const char* flag, auto& target, const char* help) {
    return table.add(flag, target, help);
  };
  add("--config", f.config_file,
      "TOML file with any of these flags as keys; unknown keys are errors")
      ->configurable(false);
  sub.add_option("model,--model", f.engine.model,
                 "demo, simulated, a .gguf file, or a folder with one (needed)")
      ->envname("PENSTOCK_MODEL")
      ->group("Model");
  declare_engine(table, sub, f.engine);
  table.group("Worker");
  add("--join", f.join, "HOST:PORT of the front end (its --join-listen; needed)");
  add("--listen", f.listen, "HOST:PORT to be asked at; port 0: any free one");
  add("--advertise", f.advertise,
      "HOST:PORT that the front end reaches --listen at, if it is another");
  add("--join-secret", f.secret,
      "Shared with the front end; needed unless --listen is on the loopback");
  add("--drain-timeout-s", f.drain_timeout_s,
      "How long running answers may take after SIGTERM, seconds; a second signal ends them")
      ->check(CLI::Range(0.0, 1e6));
  add("--log-level", f.log_level, "debug, info, warn, error or off");
}

/// Where the front end finds this worker: what was said, else where it listens, unless that is
/// every interface (then where its calls come from).
Result<void> settle_address(const WorkerFlags& f, std::uint16_t port, engine::JoinOptions& join) {
  join.port = port;
  if (f.advertise.empty()) {
    const std::string_view host = host_part(f.listen);
    if (host != "0.0.0.0" && host != "[::]") join.host = host;
    return {};
  }
  join.host = host_part(f.advertise);
  const std::size_t colon = f.advertise.rfind(':');
  const int said = colon == std::string::npos ? 0 : std::atoi(f.advertise.c_str() + colon + 1);
  if (said < 1 || said > 65535) {
    return fail(Code::kInvalidArgument,
                fmt::format("--advertise {}: expected HOST:PORT", f.advertise));
  }
  join.port = static_cast<std::uint16_t>(said);
  return {};
}

int refuse(const Error& error, int status) {
  fmt::print(stderr, "penstock worker: {}\n", error.message);
  return status;
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

int run_worker(const WorkerFlags& flags) {
  const Result<serve::ModelOptions> options = engine_options(flags.engine, 1);
  if (!options) return refuse(options.error(), 2);
  const Result<log::Level> level = log::parse_level(flags.log_level);
  if (!level) return refuse(level.error(), 2);
  log::set_level(*level);
  if (flags.join.empty()) {
    return refuse({Code::kInvalidArgument, "--join is required: HOST:PORT of a front end", "", 0},
                  2);
  }
  if (Result<void> safe = check_secret("--listen", flags.listen, flags.secret); !safe) {
    return refuse(safe.error(), 2);
  }

  const std::uint64_t files = store_descriptors(options->store) + kOtherDescriptors;
  if (const std::uint64_t may = allow_descriptors(files); may < files) {
    log::warn("--kv-disk-mib {}: takes {} open files, this process may have {} (ulimit -n)",
              flags.engine.kv_disk_mib, files, may);
  }
  const Signals signals;
  const SteadyClock clock;
  Result<std::unique_ptr<engine::Engine>> engine = load(flags, *options, signals, clock);
  if (!engine) return refuse(engine.error(), 1);
  engine::JoinOptions join{.front_end = flags.join,
                           .secret = flags.secret,
                           .instance = engine::new_instance(),
                           .host = {},
                           .info = (*engine)->info(),
                           .tells_kv_events = (*engine)->kv_events() != nullptr};
  Result<std::unique_ptr<engine::EngineServer>> server = engine::EngineServer::start(
      {.address = flags.listen, .instance = join.instance, .secret = flags.secret}, **engine,
      clock);
  if (!server) return refuse(server.error(), 1);
  if (Result<void> fine = settle_address(flags, (*server)->port(), join); !fine) {
    return refuse(fine.error(), 2);
  }
  fmt::print("worker {} listening on {}:{}\n", join.instance, host_part(flags.listen),
             (*server)->port());
  std::fflush(stdout);
  std::clearerr(stdout);  // whoever started this may not care to read it

  std::unique_ptr<engine::Joining> place = engine::Joining::start(join);
  while (signals.next(std::chrono::milliseconds(200)) == 0) {
  }
  place->drain();
  const TimePoint until = clock.now() + std::chrono::duration_cast<Nanos>(
                                            std::chrono::duration<double>(flags.drain_timeout_s));
  if ((*server)->live() > 0) {
    log::info("finishing {} running requests (at most {:.0f} s; a second signal ends them now)",
              (*server)->live(), flags.drain_timeout_s);
  }
  while ((*server)->live() > 0 && clock.now() < until) {
    if (signals.next(std::chrono::milliseconds(20)) != 0) break;
  }
  (*server)->drain();
  place.reset();  // leaves
  server->reset();
  return 0;
}

}  // namespace

void add_worker(CLI::App& app, int& exit_status) {
  auto flags = std::make_shared<WorkerFlags>();
  CLI::App* sub = app.add_subcommand(
      "worker",
      "Serve a model to a front end (penstock serve --join-listen) as a process of its own.\n"
      "It joins, and joins again whenever the front end was gone; speaks openengine.v1 over gRPC");
  declare(*sub, *flags);
  sub->callback([sub, flags, &exit_status] {
    exit_status = run_configured(*sub, flags->config_file, [&] { return run_worker(*flags); });
  });
}

}  // namespace penstock::cli
