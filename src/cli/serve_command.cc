#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <sstream>

#include "base/clock.h"
#include "base/labels.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/descriptors.h"
#include "cli/engine_flags.h"
#include "cli/join_flags.h"
#include "cli/kv_sharing.h"
#include "cli/last_resort.h"
#include "cli/model_loader.h"
#include "cli/model_path.h"
#include "cli/policy_names.h"
#include "cli/read_file.h"
#include "cli/signals.h"
#include "cli/worker_commands.h"
#include "cli/worker_processes.h"
#include "net/http_server.h"
#include "serve/remote_workers.h"
#include "serve/served_model.h"
#include "serve/service.h"
#include "text/chat_template.h"

namespace penstock::cli {
namespace {

/// Everything the flags of `penstock serve` set. The defaults are right for one machine.
struct ServeFlags {
  ProcessFlags process;
  EngineFlags engine;
  std::vector<std::string> names;
  std::string chat_template_file;
  std::uint32_t workers = 1;
  std::uint32_t prefill = 0;
  std::uint32_t decode = 0;
  double kv_lease_s = 30;
  std::string labels;
  std::uint64_t index_mib = 256;
  serve::DispatchOptions dispatch;
  serve::RemoteWorkersOptions remote;
  double worker_heartbeat_s = 1;
  double worker_lease_s = 15;
  double request_timeout_s = 600;
  double heartbeat_s = 10;
  double header_timeout_s = 10;
  double body_timeout_s = 60;
  double idle_timeout_s = 75;
  double stall_timeout_s = 30;
  std::uint64_t body_mib_max = 64;
  std::optional<std::uint32_t> max_tokens_default;
  std::string api_key_file;
  bool check_only = false;
  bool processes = false;
  net::HttpServerOptions http;
  serve::ServiceOptions service;
};

constexpr std::uint32_t kSimulatedAnswerTokens = 256;  // two seconds of real time

/// One table gives flags, environment, file and help: NAME, where it goes, what it says.
void declare(Command& command, ServeFlags& f) {
  command.add_config_file();
  command.add_switch("--check-config", f.check_only,
                     "Check flags, environment and file, then exit");

  command.group("Model");
  command.add("--served-model-name", f.names,
              "What clients call it, one or more (default: from --model)");
  command
      .add("--chat-template", f.chat_template_file,
           "Jinja file that replaces the model's chat template")
      .existing_file();

  command.group("Engine");
  const Flag workers = command
                           .add("--workers", f.workers,
                                "Engines; they share the weights, each has its own KV and threads; "
                                "0: only those that "
                                "join")
                           .range(0, 256);
  command
      .add("--prefill", f.prefill,
           "Instead of --workers, with --decode: so many engines compute prompts for others")
      .range(1, 128)
      .excludes(workers);
  command
      .add("--decode", f.decode,
           "And so many answer, with prompts of their own where that is quicker")
      .range(1, 128)
      .excludes(workers);
  command
      .add("--kv-lease-s", f.kv_lease_s,
           "A prompt's KV is kept at most so long for the answer at another worker, seconds")
      .range(0.001, 3600.0);
  command.add_switch("--processes", f.processes,
                     "Each of those engines in a process of its own, started and kept running");
  command.add(
      "--labels", f.labels,
      "NAME=VALUE,... of those engines, that requests may ask for (x-worker-labels: zone=eu)");
  declare_engine(command, "--model", f.engine);

  command.group("Router");
  command.add("--policy", f.dispatch.policy,
              "How a worker is chosen for a request; all are listed below");
  command
      .add("--decisions", f.dispatch.decisions_max,
           "Choices of a worker kept for /debug/decisions; 0: none")
      .range(0, 65536);
  command
      .add("--index-mib", f.index_mib,
           "Memory for what is cached at which worker, MiB; when full, what is oldest is dropped")
      .range(1, 1 << 20);

  command.add(
      "--join-listen", f.remote.door.address,
      "HOST:PORT where workers of other processes join (penstock worker --join); none by default");
  command.add("--join-secret", f.remote.door.secret,
              "Shared with those workers; needed unless --join-listen is on the loopback");
  command
      .add("--worker-heartbeat-s", f.worker_heartbeat_s,
           "How often those workers say that they live, seconds; suspect after four times that")
      .range(0.02, 3600.0);
  command
      .add("--worker-lease-s", f.worker_lease_s,
           "A worker without any sign of life for so long is forgotten, seconds")
      .range(0.1, 86400.0);
  command.add("--workers-max", f.remote.workers_max, "Workers that may join, at once")
      .range(1, 65536);

  command.group("Server");
  command.add("--host", f.http.address, "Address to listen on; 0.0.0.0 for every interface");
  command.add("--port", f.http.port, "TCP port; 0: any free one").range(0, 65535);
  command.add("--loops", f.http.loops, "Event loops; 0: one a core").range(0, 1024);
  command.add("--api-key", f.service.api_keys,
              "Key that clients must show, one or more (default: none needed)");
  command.add("--api-key-file", f.api_key_file, "File with a key a line").existing_file();
  command.add("--cors-origin", f.service.cors_origin,
              "Origin whose pages may ask from a browser, or * for any (default: none)");
  command.add("--max-in-flight", f.service.in_flight_max, "Requests being answered before 429")
      .range(1, 1 << 20);
  command.add("--max-connections", f.http.connections_max, "Open connections before 503")
      .range(1, 1 << 20);
  command.add("--max-body-mib", f.body_mib_max, "Largest request body, MiB (413 above)")
      .range(1, 4096);
  command.add_optional("--max-tokens-default", f.max_tokens_default,
                       "Answer length when the client names none; 0: what the context holds "
                       "(default: 0; simulated, whose answers have no end of their own: 256)");
  command
      .add("--request-timeout-s", f.request_timeout_s,
           "From request to complete answer, seconds (504 above)")
      .range(0.001, 1e6);
  command.add("--heartbeat-s", f.heartbeat_s, "A comment in streams silent so long, seconds")
      .range(0.1, 1e6);
  command
      .add("--header-timeout-s", f.header_timeout_s,
           "For a request's headers to arrive, seconds (408 above)")
      .range(0.1, 1e6);
  command
      .add("--body-timeout-s", f.body_timeout_s,
           "For a request's body to arrive, seconds (408 above)")
      .range(0.1, 1e6);
  command
      .add("--idle-timeout-s", f.idle_timeout_s,
           "A kept-alive connection without a request, seconds")
      .range(0.1, 1e6);
  command
      .add("--stall-timeout-s", f.stall_timeout_s,
           "A client that takes none of its answer, seconds")
      .range(0.1, 1e6);
  declare_process(command, f.process);
}

/// The KV of this process's workers, with those that join.
Result<void> share_with_joined(const ServeFlags& f, serve::ModelOptions& model) {
  const std::string& address = f.remote.door.address;
  if (address.empty() || model.workers == 0 || model.simulated || model.llama.reuse_bytes == 0) {
    return {};
  }
  auto sharing = kv_sharing(f.engine.kv_transfer, address, f.remote.door.secret);
  if (!sharing) return std::unexpected(sharing.error());
  model.sharing = std::move(*sharing);
  const bool everywhere = model.sharing.tcp_listen == "0.0.0.0" || model.sharing.tcp_listen == "::";
  if (everywhere && f.engine.kv_transfer == "tcp") {
    return fail(
        Code::kInvalidArgument,
        fmt::format("--kv-transfer tcp: --join-listen {} does not say where others find this "
                    "host; name one of its addresses",
                    address));
  }
  if (everywhere) model.sharing.tcp_listen.clear();  // nobody could say where that is
  model.sharing.tcp_advertise = model.sharing.tcp_listen;
  return {};
}

Result<void> settle_labels(ServeFlags& f) {
  Result<Labels> labels = parse_labels(f.labels);
  std::string wrong = labels ? "" : labels.error().message;
  if (labels && find_label(*labels, serve::kProcessLabel) != nullptr) {
    wrong = fmt::format("{}: that one is given by --processes", serve::kProcessLabel);
  }
  if (labels && f.processes && !labels->empty()) {  // with the one that each is given
    if (const auto all = parse_labels(fmt::format("{},{}=0", f.labels, serve::kProcessLabel));
        !all) {
      wrong = all.error().message;
    }
  }
  if (labels && !labels->empty() && f.workers == 0) {
    wrong = "are of this server's own workers, and --workers is 0";
  }
  if (!wrong.empty()) return fail(Code::kInvalidArgument, fmt::format("--labels {}", wrong));
  f.dispatch.labels = std::move(*labels);
  return {};
}

/// Browsers look for it in every answer.
Result<void> settle_cors(ServeFlags& f) {
  const std::string& origin = f.service.cors_origin;
  if (origin.empty()) return {};
  if (origin.ends_with('/') ||
      std::ranges::any_of(origin, [](char c) { return c <= ' ' || c > '~' || c == ','; })) {
    return fail(Code::kInvalidArgument,
                "--cors-origin: expected one origin, as https://chat.example.org, or *");
  }
  f.http.answer_headers = fmt::format(
      "Access-Control-Allow-Origin: {}\r\n"
      "Access-Control-Expose-Headers: X-Request-Id, Retry-After\r\n"
      "Vary: Origin\r\n",
      origin);
  return {};
}

/// Turns what was typed into the options of each part. Fails with what is wrong.
Result<serve::ModelOptions> settle(ServeFlags& f) {
  if ((f.prefill > 0) != (f.decode > 0)) {
    return fail(Code::kInvalidArgument, "--prefill and --decode need each other");
  }
  if (f.prefill > 0) {
    f.workers = f.prefill + f.decode;
    f.dispatch.roles.assign(f.prefill, fleet::Role::kPrefill);
    f.dispatch.roles.resize(f.workers, fleet::Role::kDecode);
  }
  if (f.processes && f.workers == 0) {
    return fail(Code::kInvalidArgument, "--processes: say how many, with --workers");
  }
  if (f.processes && f.remote.door.address.empty()) f.remote.door.address = "127.0.0.1:0";
  if (f.processes && f.remote.door.secret.empty()) f.remote.door.secret = engine::new_instance();
  Result<serve::ModelOptions> options = engine_options(f.engine, f.workers);
  if (!options) return options;
  if (f.prefill > 0 && (options->simulated || options->llama.reuse_bytes == 0)) {
    return fail(Code::kInvalidArgument,
                options->simulated
                    ? "--prefill: simulated workers hand no KV over"
                    : "--prefill: KV is handed over from --kv-cache-mib, which is 0");
  }
  if (f.prefill > 0 && f.processes && f.engine.kv_transfer == "none") {
    return fail(Code::kInvalidArgument,
                "--kv-transfer none: prompts are computed for others, and their KV has to move");
  }
  if (f.processes && f.engine.kv_cache_mib > 0 && f.engine.kv_cache_mib < f.workers) {
    return fail(Code::kInvalidArgument,
                fmt::format("--kv-cache-mib {}: {} workers share it, 1 MiB each at least",
                            f.engine.kv_cache_mib, f.workers));
  }
  serve::ModelOptions& model = *options;
  if (Result<void> level = apply_log_level(f.process); !level) {
    return std::unexpected(level.error());
  }
  if (Result<void> labels = settle_labels(f); !labels) return std::unexpected(labels.error());
  f.dispatch.index_bytes_max = f.index_mib << 20;
  f.http.body_bytes_max = f.body_mib_max << 20;
  f.http.bodies_bytes_max = std::max(f.http.bodies_bytes_max, f.http.body_bytes_max);
  f.http.header_timeout = from_seconds(f.header_timeout_s);
  f.http.body_timeout = from_seconds(f.body_timeout_s);
  f.http.idle_timeout = from_seconds(f.idle_timeout_s);
  f.http.write_stall_timeout = from_seconds(f.stall_timeout_s);
  f.service.max_tokens_default =
      f.max_tokens_default.value_or(model.simulated ? kSimulatedAnswerTokens : 0);
  f.service.request_timeout = from_seconds(f.request_timeout_s);
  f.service.heartbeat = from_seconds(f.heartbeat_s);
  f.service.kv_lease = from_seconds(f.kv_lease_s);
  if (std::ranges::count(f.names, "") > 0) {
    return fail(Code::kInvalidArgument, "--served-model-name: an empty name; give one, or none");
  }
  if (Result<void> cors = settle_cors(f); !cors) return std::unexpected(cors.error());
  // Whoever sets an empty key believes to have set one.
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
  const char* key = f.service.api_keys.empty() ? std::getenv("PENSTOCK_API_KEY") : nullptr;
  if ((key != nullptr && *key == '\0') || std::ranges::count(f.service.api_keys, "") > 0) {
    return fail(Code::kInvalidArgument,
                "--api-key (or PENSTOCK_API_KEY): an empty key; give one, or unset it");
  }
  if (!f.api_key_file.empty()) {
    Result<std::string> text = read_file(f.api_key_file);
    if (!text) return std::unexpected(text.error());
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0) {
        line.pop_back();  // also the \r of a file from elsewhere
      }
      if (!line.empty()) f.service.api_keys.push_back(line);
    }
    if (f.service.api_keys.empty())
      return fail(Code::kInvalidArgument, fmt::format("{} holds no key", f.api_key_file));
  }
  if (Result<void> known = check_policy(f.dispatch.policy); !known) {
    return std::unexpected(known.error());
  }
  if (f.workers == 0 && f.remote.door.address.empty()) {
    return fail(Code::kInvalidArgument, "--workers 0: without --join-listen nobody would serve");
  }
  if (!f.remote.door.address.empty()) {
    Result<void> safe = check_secret("--join-listen", f.remote.door.address, f.remote.door.secret);
    if (!safe) return std::unexpected(safe.error());
  }
  if (f.processes) {
    const auto sharing =
        kv_sharing(f.engine.kv_transfer, f.remote.door.address, f.remote.door.secret);
    if (!sharing) return std::unexpected(sharing.error());
    model.workers = 0;
  } else if (Result<void> shares = share_with_joined(f, model); !shares) {
    return std::unexpected(shares.error());
  }
  f.remote.door.heartbeat = from_seconds(f.worker_heartbeat_s);
  f.remote.door.lease = from_seconds(f.worker_lease_s);
  model.dispatch = f.dispatch;
  model.names = f.names.empty() ? std::vector<std::string>{model_name(f.engine.model)} : f.names;
  if (!f.chat_template_file.empty()) {
    Result<std::string> text = read_file(f.chat_template_file);
    if (!text) return std::unexpected(text.error());
    if (const Result<void> parses = text::ChatTemplate::check_source(*text); !parses) {
      return fail(
          Code::kInvalidArgument,
          fmt::format("--chat-template {}: {}", f.chat_template_file, parses.error().message));
    }
    model.chat_template = std::move(*text);
  }
  return options;
}

/// Of a worker that joins: its connection here, ours there, and both anew before the old ones end.
constexpr std::uint64_t kWorkerDescriptors = 4;

/// Holds connections to what this process may open: beyond that, accept() would fail and clients
/// would wait for nothing; gRPC's server would never accept again.
void fit_connections(net::HttpServerOptions& http, std::uint64_t store_files,
                     std::uint64_t joining) {
  const std::uint64_t others = kOtherDescriptors + store_files + kWorkerDescriptors * joining;
  const std::uint64_t files = allow_descriptors(http.connections_max + others);
  const std::uint64_t room = files > 2 * others ? files - others : files / 2;
  if (files == 0 || room >= http.connections_max) return;
  log::warn("--max-connections {}: this process may open {} files (ulimit -n), so it is {}",
            http.connections_max, files, room);
  http.connections_max = std::max<std::size_t>(room, 1);
}

/// Where the processes of `--processes` join.
std::string own_door(const ServeFlags& f, std::uint16_t port) {
  const std::string host = parse_host_port(f.remote.door.address)->host;
  const bool everywhere = host == "0.0.0.0" || host == "[::]";
  return fmt::format("{}:{}", everywhere ? "127.0.0.1" : host, port);
}

/// They have nothing left to do; one that does not end by itself, or not before the next signal, is
/// killed with `processes`.
void end(WorkerProcesses& processes, const Signals& signals, const Clock& clock) {
  constexpr Nanos kEndWithin = std::chrono::seconds(5);
  processes.ask_to_end();
  const TimePoint until = clock.now() + kEndWithin;
  while (processes.running() > 0 && clock.now() < until) {
    if (signals.next(std::chrono::milliseconds(10)) != 0) return;
  }
}

Awaited awaited(const ServeFlags& f) {
  if (!f.processes) return Awaited::kNobody;
  return f.prefill > 0 ? Awaited::kPromptsAndAnswers : Awaited::kAnswers;
}

int check_flags(ServeFlags& flags) {
  const Result<serve::ModelOptions> settled = settle(flags);
  const Result<void> fine =
      settled ? net::check_address(flags.http) : std::unexpected(settled.error());
  if (!fine) return refuse("serve", fine.error(), 2);
  fmt::print("these settings are fine\n");
  return 0;
}

int run_serve(ServeFlags& flags) {
  Result<serve::ModelOptions> model = settle(flags);
  if (!model) return refuse("serve", model.error(), 2);
  if (model->sharing.outside()) {
    const Result<void> opened = open_kv_sharing(flags.engine.kv_transfer, model->sharing);
    if (!opened) return refuse("serve", opened.error(), 1);
  }
  const Result<void> folder = tiers::make_folder(model->store.disk_folder);
  if (!folder) return refuse("serve", folder.error(), 1);
  const bool has_door = flags.processes || !flags.remote.door.address.empty();
  fit_connections(flags.http, store_descriptors(model->store),
                  has_door ? flags.remote.workers_max : 0);
  const Signals signals;
  const SteadyClock clock;
  serve::Service service(flags.service, clock);
  Result<std::unique_ptr<net::HttpServer>> started = net::start_http_server(flags.http, service);
  if (!started) return refuse("serve", started.error(), 1);
  net::HttpServer& server = **started;
  service.open(server);
  std::unique_ptr<serve::RemoteWorkers> remote;
  if (!flags.remote.door.address.empty()) {
    auto joins = serve::RemoteWorkers::start(flags.remote, clock);
    if (!joins) {
      fmt::print(stderr, "penstock serve: {}\n", joins.error().message);
      server.stop();
      service.close();
      return 1;
    }
    remote = std::move(*joins);
    model->remote = remote.get();
    fmt::print("workers join at {}:{}\n", parse_host_port(flags.remote.door.address)->host,
               remote->port());
  }
  const bool is_v6 = flags.http.address.find(':') != std::string::npos;
  fmt::print("listening on http://{}{}{}:{}\n", is_v6 ? "[" : "", flags.http.address,
             is_v6 ? "]" : "", server.port());
  std::fflush(stdout);
  std::clearerr(stdout);  // whoever started this may not care to read it

  int status = 0;
  std::optional<LastResort> last_resort;
  std::optional<WorkerProcesses> processes;
  {
    ModelLoader loader(*model, flags.engine.model, clock, service, awaited(flags));
    while (signals.next(std::chrono::milliseconds(processes ? 50 : 200)) == 0) {
      if (processes) {
        processes->look_after();
      } else if (flags.processes && loader.path() != nullptr) {
        processes.emplace(worker_commands({.engine = flags.engine,
                                           .process = flags.process,
                                           .model_path = *loader.path(),
                                           .workers = flags.workers,
                                           .roles = flags.dispatch.roles,
                                           .labels = flags.dispatch.labels,
                                           .join = own_door(flags, remote->port()),
                                           .secret = flags.remote.door.secret}),
                          clock);
      }
      if (processes && processes->refused()) {
        log::error(
            "a worker process does not accept what it was told, of --kv-cache-mib, --kv-host-mib "
            "and --kv-disk-mib its share; that will not get better");
      } else if (!loader.failed()) {
        continue;
      }
      status = 1;
      break;
    }
    service.drain();
    server.drain();
    const TimePoint until = clock.now() + from_seconds(flags.process.drain_timeout_s);
    if (status == 0 && service.in_flight() > 0) {
      log::info("finishing {} running requests (at most {:.0f} s; a second signal ends them now)",
                service.in_flight(), flags.process.drain_timeout_s);
    }
    // Answers that are complete may still be on their way to clients that read slowly.
    const auto busy = [&] { return service.in_flight() > 0 || server.stats().exchanges_open > 0; };
    while (busy() && clock.now() < until) {
      if (signals.next(std::chrono::milliseconds(20)) != 0) break;
    }
    service.shut_down();
    const TimePoint told =
        clock.now() + std::chrono::seconds(1);  // as soon as the loops come to it
    while (service.in_flight() > 0 && clock.now() < told) {
      if (signals.next(std::chrono::milliseconds(5)) != 0) break;
    }
    // Those that still have something to answer would wait for its end.
    if (processes && service.in_flight() == 0) end(*processes, signals, clock);
    processes.reset();
    last_resort.emplace(signals, clock);
    server.stop();
    // Nothing was ever accepted when the model is not there yet, so nothing is lost by not waiting.
    if (!loader.stop_within(std::chrono::seconds(1))) std::_Exit(status);
  }  // the workers end while the server's loops can still be posted to
  service.close();
  return status;
}

}  // namespace

void add_serve(CommandLine& line) {
  auto flags = std::make_shared<ServeFlags>();
  Command& command = line.add_command(
      "serve",
      "Serve a model over HTTP, OpenAI-compatible: /v1/chat/completions, /v1/completions,\n"
      "/v1/embeddings, /v1/models, and /health, /ready, /metrics, /debug/workers,\n"
      "/debug/decisions, /debug/requests for operators",
      "PENSTOCK_");
  command.footer("Policies:\n" + policy_list());
  declare(command, *flags);
  command.on_run([flags] { return flags->check_only ? check_flags(*flags) : run_serve(*flags); });
}

}  // namespace penstock::cli
