#include "cli/bench_flags.h"

#include <fmt/format.h>

#include <cctype>
#include <chrono>
#include <cmath>
#include <random>
#include <utility>

#include "cli/load/fetch.h"
#include "cli/read_file.h"
#include "net/http_client.h"

namespace penstock::cli {
namespace {

constexpr std::uint32_t kConcurrencyDefault = 4;
constexpr double kDurationDefaultS = 10;

void declare_server(Command& command, BenchFlags& f) {
  command.group("Server");
  command.add("--url", f.url, "The server, with or without /v1 at its end; http only");
  command
      .add("--endpoint", f.endpoint, "chat (/v1/chat/completions) or completions (/v1/completions)")
      .one_of({"chat", "completions"});
  command.add("--model", f.model, "Model to ask for (default: the first of GET /v1/models)");
  command.add("--api-key", f.api_key, "Sent as Authorization: Bearer (default: not sent)");
  command
      .add("--timeout-s", f.timeout_s,
           "For a whole answer, from when it was to be asked for, seconds")
      .range(0.001, 1e6);
}

void declare_load(Command& command, BenchFlags& f) {
  command.group("Load");
  command
      .add("--concurrency", f.concurrency,
           "Closed loop: sessions at once; 0: 4, unless --rate or --trace is given")
      .range(0, 100000);
  command
      .add("--rate", f.rate_per_s,
           "Open loop: requests/s, sent on time whatever the server does; 0: closed loop")
      .range(0.0, 1e6);
  command.add("--arrivals", f.arrivals, "Of --rate: poisson (random gaps) or uniform (equal gaps)")
      .one_of({"poisson", "uniform"});
  command
      .add("--trace", f.trace_file,
           "Replay a Mooncake trace (JSON lines), at its own times unless --rate or\n"
           "--concurrency says otherwise")
      .existing_file();
  command.add("--speed", f.speed, "Of --trace: 2 replays it twice as fast").range(0.001, 1e6);
  command
      .add("--trace-block-tokens", f.trace_block_tokens,
           "Of --trace: tokens that a hash id stands for")
      .range(1, 1 << 20);
  command
      .add("--max-in-flight", f.in_flight_max,
           "Open loop: sessions open at once; beyond, arrivals wait (and it is said)")
      .range(1, 100000);
  command
      .add("--duration-s", f.duration_s,
           "Send so long after the warm-up, seconds; 0: 10, unless --requests or a file is given")
      .range(0.0, 1e7);
  command
      .add("--requests", f.requests,
           "Send so many after the warm-up; 0: no limit, or as many as the file has")
      .range(0.0, 1e12);
  command.add("--warmup-s", f.warm_up_s, "Send so long before measuring, seconds").range(0.0, 1e6);
  command.add("--threads", f.threads, "Threads that send; one is enough for thousands of streams")
      .range(1, 64);
}

void declare_requests(Command& command, BenchFlags& f) {
  command.group("Requests");
  command
      .add("--prompt-tokens", f.prompt_tokens,
           "Words of each prompt, about a token each; from 8 on no two prompts are alike")
      .range(1, 1 << 24);
  command
      .add("--prompt-bytes", f.prompt_bytes,
           "Size of each prompt instead, bytes; 0: --prompt-tokens")
      .range(0, 1 << 28);
  command
      .add("--shared-prefix-tokens", f.shared_prefix_tokens,
           "Words of a system prompt that sessions share; 0: none")
      .range(0, 1 << 24);
  command
      .add("--prefix-groups", f.prefix_groups, "Different system prompts; each session draws one")
      .range(1, 1 << 24);
  command
      .add("--prompts", f.prompts_file,
           "JSON lines instead: each a string, an array of messages, or an object with prompt\n"
           "or messages; from the top again when used up")
      .existing_file();
  command
      .add("--turns", f.turns,
           "Requests of a session: each carries on the conversation so far, answers included")
      .range(1, 10000);
  command.add("--max-tokens", f.max_tokens, "Longest answer, tokens (a trace has its own)")
      .range(1, 1 << 24);
  command
      .add_optional("--temperature", f.temperature,
                    "0 is greedy (default: not sent, the server's own)")
      .range(0.0, 100.0);
  command.add_optional(
      "--seed", f.seed,
      "Same seed, same prompts and arrivals; also sent to the server's sampler. 32 bits\n"
      "(default: a new one each run, so that nothing is cached from the run before; it is\n"
      "reported, but not sent)");
  command.add_switch(
      "--ignore-eos", f.ignore_eos,
      "Send ignore_eos: answers go on to --max-tokens where the server knows the field");
  command.add_switch("--stream,!--no-stream", f.stream,
                     "Stream answers (default), or fetch them whole: then no TTFT, ITL and TPOT");
}

void declare_report(Command& command, BenchFlags& f) {
  command.group("Report");
  command
      .add("--slo-ttft-ms", f.slo_ttft_ms,
           "Goodput counts requests with TTFT up to this, milliseconds; 0: any")
      .range(0.0, 1e9);
  command
      .add("--slo-itl-ms", f.slo_itl_ms,
           "and up to so long for each output token after the first (TPOT), milliseconds; 0: any")
      .range(0.0, 1e9);
  command.add_switch("--json", f.json, "Print one JSON object on standard output and nothing else");
  command.add_switch("--progress", f.progress,
                     "Show progress even if standard error is no terminal");
  command.add_switch("--allow-errors", f.allow_errors, "Exit with 0 even if requests failed");
}

/// What cannot go together.
Result<void> check_together(const BenchFlags& f) {
  if (f.rate_per_s > 0 && f.concurrency > 0) {
    return invalid(
        "--rate (open loop) and --concurrency (closed loop) exclude each other; to bound "
        "an open loop use --max-in-flight");
  }
  if (!f.trace_file.empty() && !f.prompts_file.empty()) {
    return invalid("--trace and --prompts exclude each other");
  }
  if (f.turns > 1 && !(f.trace_file.empty() && f.prompts_file.empty())) {
    return invalid("--turns needs generated prompts, not --trace or --prompts");
  }
  if (f.prefix_groups > 1 && f.shared_prefix_tokens == 0) {
    return invalid("--prefix-groups needs --shared-prefix-tokens");
  }
  if (f.trace_file.empty() && f.speed != 1) return invalid("--speed needs --trace");
  if (!f.stream && f.slo_itl_ms > 0) return invalid("--slo-itl-ms needs --stream");
  return {};
}

Result<void> read_prompts(const BenchFlags& f, BenchPlan& plan) {
  const load::Endpoint endpoint = plan.options.request.endpoint;
  const std::uint64_t seed = plan.options.seed;
  if (!f.trace_file.empty()) {
    const Result<std::string> text = read_file(f.trace_file);
    if (!text) return std::unexpected(text.error());
    Result<std::vector<load::TraceRequest>> trace = load::parse_trace(*text);
    if (!trace) return invalid(fmt::format("{}: {}", f.trace_file, trace.error().message));
    plan.trace = std::move(*trace);
    plan.prompts = load::make_trace_prompts(
        {.endpoint = endpoint, .seed = seed, .block_tokens = f.trace_block_tokens}, plan.trace);
  } else if (!f.prompts_file.empty()) {
    const Result<std::string> text = read_file(f.prompts_file);
    if (!text) return std::unexpected(text.error());
    Result<std::unique_ptr<load::PromptSource>> prompts = load::read_prompts(*text, endpoint);
    if (!prompts) return invalid(fmt::format("{}: {}", f.prompts_file, prompts.error().message));
    plan.prompts = std::move(*prompts);
  } else {
    plan.prompts = load::make_generated_prompts({.endpoint = endpoint,
                                                 .seed = seed,
                                                 .tokens = f.prompt_tokens,
                                                 .size_bytes = f.prompt_bytes,
                                                 .shared_prefix_tokens = f.shared_prefix_tokens,
                                                 .prefix_groups = f.prefix_groups});
  }
  return {};
}

void settle_request(const BenchFlags& f, load::RequestOptions& request) {
  request.endpoint = f.endpoint == "chat" ? load::Endpoint::kChat : load::Endpoint::kCompletions;
  request.model = f.model;
  request.api_key = f.api_key;
  request.max_tokens = f.max_tokens;
  request.temperature = f.temperature;
  request.seed = f.seed;
  request.ignore_eos = f.ignore_eos;
  request.stream = f.stream;
}

void settle_pacing(const BenchFlags& f, load::LoadOptions& options) {
  options.concurrency = f.concurrency > 0 ? f.concurrency : kConcurrencyDefault;
  if (f.rate_per_s > 0) {
    options.pacing = load::Pacing::kRate;
  } else if (!f.trace_file.empty() && f.concurrency == 0) {
    options.pacing = load::Pacing::kTrace;
  }
  options.rate_per_s = f.rate_per_s;
  options.spacing = f.arrivals == "uniform" ? load::Spacing::kUniform : load::Spacing::kPoisson;
  options.speed = f.speed;
  options.in_flight_max = f.in_flight_max;
  options.turns = f.turns;
  options.threads = f.threads;
  options.warm_up = from_seconds(f.warm_up_s);
  options.timeout = from_seconds(f.timeout_s);
  options.slo = {.ttft = from_seconds(f.slo_ttft_ms / 1e3),
                 .itl = from_seconds(f.slo_itl_ms / 1e3)};
}

}  // namespace

void declare(Command& command, BenchFlags& flags) {
  command.add_config_file();
  declare_server(command, flags);
  declare_load(command, flags);
  declare_requests(command, flags);
  declare_report(command, flags);
}

Result<std::unique_ptr<BenchPlan>> settle(const BenchFlags& f) {
  const Result<void> together = check_together(f);
  if (!together) return std::unexpected(together.error());
  auto plan = std::make_unique<BenchPlan>();
  load::LoadOptions& options = plan->options;
  Result<net::Url> url = load::read_server_url(f.url);
  if (!url) return std::unexpected(url.error());
  options.server = std::move(*url);
  settle_request(f, options.request);
  settle_pacing(f, options);
  options.seed = f.seed ? *f.seed : std::random_device{}();
  const Result<void> read = read_prompts(f, *plan);
  if (!read) return std::unexpected(read.error());
  if (f.requests > 0) options.requests = f.requests;
  if (f.duration_s > 0) options.duration = from_seconds(f.duration_s);
  if (!options.requests && !options.duration) {
    if (plan->prompts->sessions() > 0) {
      options.requests = plan->prompts->sessions();
    } else {
      options.duration = from_seconds(kDurationDefaultS);
    }
  }
  return plan;
}

}  // namespace penstock::cli
