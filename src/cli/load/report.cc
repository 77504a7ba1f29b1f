#include "cli/load/report.h"

#include <fmt/format.h>

#include <iterator>
#include <optional>
#include <string_view>

#include "api/openai.h"
#include "base/clock.h"
#include "cli/load/request_body.h"

namespace penstock::cli::load {
namespace {

std::uint64_t ended_with(const Statistics& s, Outcome outcome) {
  return s.ended[static_cast<std::size_t>(outcome)];
}

/// Measured requests that ended in any way.
std::uint64_t ended(const Statistics& s) {
  std::uint64_t sum = 0;
  for (const std::uint64_t count : s.ended) sum += count;
  return sum;
}

std::uint64_t measured_failures(const Statistics& s) {
  return ended(s) - ended_with(s, Outcome::kOk) - ended_with(s, Outcome::kUnfinished);
}

std::optional<double> per_second(double count, const RunResult& result) {
  if (result.window_time <= Nanos::zero()) return std::nullopt;
  return count / to_seconds(result.window_time);
}

std::optional<double> ratio(std::uint64_t part, std::uint64_t whole) {
  if (whole == 0) return std::nullopt;
  return static_cast<double>(part) / static_cast<double>(whole);
}

std::string_view name_of(Pacing pacing) {
  switch (pacing) {
    case Pacing::kClosed: return "closed";
    case Pacing::kRate: return "rate";
    case Pacing::kTrace: return "trace";
  }
  return {};
}

std::string_view name_of(Spacing spacing) {
  return spacing == Spacing::kPoisson ? "poisson" : "uniform";
}

/// The prompt counts are only as good as the server's.
bool counts_prompts(const Statistics& s) { return s.with_usage > 0; }

std::string_view counted_by(const Statistics& s) {
  const std::uint64_t ok = ended_with(s, Outcome::kOk);
  if (s.with_usage == ok) return "usage";
  return s.with_usage == 0 ? "events" : "usage where given, else events";
}

// ---- JSON ----------------------------------------------------------------------------------

/// Writes one JSON object field by field.
class Object final {
 public:
  explicit Object(std::string& out) : out_(out) { out_ += '{'; }
  void close() { out_ += '}'; }

  Object nested(std::string_view name) {
    key(name);
    return Object(out_);
  }
  void text(std::string_view name, std::string_view value) {
    key(name);
    api::append_json_string(out_, value);
  }
  void flag(std::string_view name, bool value) {
    key(name);
    out_ += value ? "true" : "false";
  }
  void null(std::string_view name) {
    key(name);
    out_ += "null";
  }
  void count(std::string_view name, std::uint64_t value) {
    key(name);
    fmt::format_to(std::back_inserter(out_), "{}", value);
  }
  void number(std::string_view name, std::optional<double> value) {
    if (!value) return null(name);
    key(name);
    fmt::format_to(std::back_inserter(out_), "{:.6g}", *value);
  }

 private:
  void key(std::string_view name) {
    if (out_.back() != '{') out_ += ',';
    api::append_json_string(out_, name);
    out_ += ':';
  }

  std::string& out_;
};

void add_latency(Object& parent, std::string_view name, const Histogram& h) {
  Object object = parent.nested(name);
  const auto ms = [&](Nanos value) {
    return h.count() == 0 ? std::nullopt : std::optional(to_ms(value));
  };
  object.count("count", h.count());
  object.number("mean", ms(h.mean()));
  object.number("p50", ms(h.percentile(50)));
  object.number("p90", ms(h.percentile(90)));
  object.number("p99", ms(h.percentile(99)));
  object.number("max", ms(h.max()));
  object.close();
}

void add_load(Object& parent, const LoadOptions& options) {
  Object load = parent.nested("load");
  load.text("pacing", name_of(options.pacing));
  if (options.pacing == Pacing::kClosed) {
    load.count("concurrency", options.concurrency);
  } else {
    load.count("in_flight_max", options.in_flight_max);
  }
  if (options.pacing == Pacing::kRate) {
    load.number("rate_per_s", options.rate_per_s);
    load.text("arrivals", name_of(options.spacing));
  }
  if (options.pacing == Pacing::kTrace) load.number("speed", options.speed);
  load.count("turns", options.turns);
  load.count("max_tokens", options.request.max_tokens);
  load.flag("stream", options.request.stream);
  load.number("warmup_s", to_seconds(options.warm_up));
  load.number("duration_s",
              options.duration ? std::optional(to_seconds(*options.duration)) : std::nullopt);
  if (options.requests) {
    load.count("requests", *options.requests);
  } else {
    load.null("requests");
  }
  load.number("timeout_s", to_seconds(options.timeout));
  load.count("threads", options.threads);
  load.count("seed", options.seed);
  load.close();
}

void add_errors(Object& parent, const Statistics& s) {
  Object errors = parent.nested("errors");
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    const auto outcome = static_cast<Outcome>(i);
    if (outcome == Outcome::kOk || outcome == Outcome::kUnfinished) continue;
    errors.count(load::name_of(outcome), s.ended[i]);
  }
  Object by_status = errors.nested("by_status");
  for (const auto& [status, count] : s.failed_by_status) {
    by_status.count(std::to_string(status), count);
  }
  by_status.close();
  Object samples = errors.nested("samples");
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    if (s.sample_messages[i].empty()) continue;
    samples.text(load::name_of(static_cast<Outcome>(i)), s.sample_messages[i]);
  }
  samples.close();
  errors.close();
}

void add_goodput(Object& parent, const LoadOptions& options, const RunResult& result) {
  if (!options.slo.any()) return parent.null("goodput");
  const Statistics& s = result.statistics;
  const auto limit = [](Nanos slo) {
    return slo > Nanos::zero() ? std::optional(to_ms(slo)) : std::nullopt;
  };
  Object goodput = parent.nested("goodput");
  goodput.number("slo_ttft_ms", limit(options.slo.ttft));
  goodput.number("slo_itl_ms", limit(options.slo.itl));
  goodput.count("good", s.good);
  goodput.number("ratio", ratio(s.good, ended(s) - ended_with(s, Outcome::kUnfinished)));
  goodput.number("requests_per_s", per_second(static_cast<double>(s.good_in_window), result));
  goodput.close();
}

void add_rates_and_tokens(Object& root, const RunResult& result) {
  const Statistics& s = result.statistics;
  const bool prompts = counts_prompts(s);
  Object rates = root.nested("rates");
  rates.number("requests_per_s", per_second(static_cast<double>(s.requests_in_window), result));
  rates.number("output_tokens_per_s", per_second(s.output_tokens_in_window, result));
  rates.number(
      "prompt_tokens_per_s",
      prompts ? per_second(static_cast<double>(s.prompt_tokens_in_window), result) : std::nullopt);
  rates.close();
  Object tokens = root.nested("tokens");
  tokens.count("output", s.output_tokens);
  tokens.text("output_counted_by", counted_by(s));
  if (prompts) {
    tokens.count("prompt", s.prompt_tokens);
    tokens.count("cached", s.cached_tokens);
  } else {
    tokens.null("prompt");
    tokens.null("cached");
  }
  tokens.number("cached_ratio", ratio(s.cached_tokens, s.prompt_tokens));
  tokens.close();
}

void add_generator(Object& root, const Statistics& s) {
  Object generator = root.nested("generator");
  generator.flag("kept_up", kept_up(s));
  generator.count("late_sends", s.late_sends);
  generator.count("waited_for_slot", s.waited_for_slot);
  add_latency(generator, "send_lag_ms", s.send_lag);
  generator.close();
}

// ---- text ----------------------------------------------------------------------------------

/// Enough digits to compare, not more.
std::string figure(double value) {
  if (value >= 100) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}", value, value >= 10 ? 1 : value >= 1 ? 2 : 3);
}

std::string figure_or_dash(std::optional<double> value) { return value ? figure(*value) : "-"; }

std::string count_noun(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string describe_load(const LoadOptions& options) {
  std::string text;
  const auto out = std::back_inserter(text);
  switch (options.pacing) {
    case Pacing::kClosed:
      fmt::format_to(out, "closed loop, {} at once", options.concurrency);
      break;
    case Pacing::kRate:
      fmt::format_to(out, "open loop, {:g} requests/s ({})", options.rate_per_s,
                     name_of(options.spacing));
      break;
    case Pacing::kTrace:
      fmt::format_to(out, "open loop, trace at speed {:g}", options.speed);
      break;
  }
  if (options.turns > 1) fmt::format_to(out, ", sessions of {} turns", options.turns);
  fmt::format_to(out, ", seed {}", options.seed);
  return text;
}

void add_row(std::string& out, std::string_view name, const Histogram& h) {
  if (h.count() == 0) return;
  fmt::format_to(std::back_inserter(out), "{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", name,
                 figure(to_ms(h.percentile(50))), figure(to_ms(h.percentile(90))),
                 figure(to_ms(h.percentile(99))), figure(to_ms(h.max())), figure(to_ms(h.mean())),
                 h.count());
}

void add_error_lines(std::string& out, const Statistics& s) {
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    const auto outcome = static_cast<Outcome>(i);
    if (outcome == Outcome::kOk || outcome == Outcome::kUnfinished || s.ended[i] == 0) continue;
    std::string sample = s.sample_messages[i];
    for (char& c : sample) {
      if (static_cast<unsigned char>(c) < ' ') c = ' ';  // one line, and no terminal commands
    }
    fmt::format_to(std::back_inserter(out), "  {:<16}{:>8}  first: {}\n", load::name_of(outcome),
                   s.ended[i], sample);
  }
}

void add_notes(std::string& out, const LoadOptions& options, const RunResult& result) {
  const Statistics& s = result.statistics;
  const auto to = std::back_inserter(out);
  if (options.pacing != Pacing::kClosed && s.send_lag.count() > 0) {
    fmt::format_to(to, "send lag: mean {} ms, max {} ms behind the intended time\n",
                   figure(to_ms(s.send_lag.mean())), figure(to_ms(s.send_lag.max())));
  }
  if (!kept_up(s)) {
    fmt::format_to(to,
                   "NOTE: this client could not keep up: {} of {} sends were over {:.0f} ms late, "
                   "which the latencies include.\n      Ask for less, or for more --threads if "
                   "this machine has idle cores.\n",
                   s.late_sends, s.send_lag.count(), to_ms(Statistics::kLateSend));
  }
  if (s.waited_for_slot > 0) {
    fmt::format_to(to,
                   "NOTE: {} had to wait until fewer than --max-in-flight {} were open; the "
                   "latencies include that.\n",
                   count_noun(s.waited_for_slot, "request"), options.in_flight_max);
  }
  if (ended_with(s, Outcome::kOk) > 0 && s.with_usage < ended_with(s, Outcome::kOk)) {
    fmt::format_to(to, "NOTE: the server sent no usage for {}: tokens are counted as {}.\n",
                   count_noun(ended_with(s, Outcome::kOk) - s.with_usage, "request"),
                   counted_by(s));
  }
  if (s.failed_in_warm_up > 0) {
    fmt::format_to(to, "NOTE: {} failed in the warm-up.\n",
                   count_noun(s.failed_in_warm_up, "request"));
  }
  if (result.interrupted) {
    fmt::format_to(to, "NOTE: interrupted, with {} in flight.\n",
                   count_noun(ended_with(s, Outcome::kUnfinished), "request"));
  }
}

}  // namespace

std::uint64_t failures(const RunResult& result) noexcept {
  return measured_failures(result.statistics) + result.statistics.failed_in_warm_up;
}

bool kept_up(const Statistics& statistics) noexcept {
  return statistics.late_sends * 100 <= statistics.send_lag.count();
}

std::string json_report(const LoadOptions& options, const RunResult& result) {
  const Statistics& s = result.statistics;
  std::string out;
  Object root(out);
  root.count("version", 1);
  Object target = root.nested("target");
  target.text("host", options.server.host);
  target.count("port", options.server.port);
  target.text("path", options.server.path + std::string(path_of(options.request.endpoint)));
  target.text("model", options.request.model);
  target.close();
  add_load(root, options);
  root.flag("interrupted", result.interrupted);
  root.number("window_s", to_seconds(result.window_time));
  Object requests = root.nested("requests");
  requests.count("ok", ended_with(s, Outcome::kOk));
  requests.count("failed", measured_failures(s));
  requests.count("unfinished", ended_with(s, Outcome::kUnfinished));
  requests.count("failed_in_warmup", s.failed_in_warm_up);
  requests.close();
  add_errors(root, s);
  add_rates_and_tokens(root, result);
  add_goodput(root, options, result);
  Object latency = root.nested("latency_ms");
  add_latency(latency, "ttft", s.ttft);
  add_latency(latency, "itl", s.itl);
  add_latency(latency, "tpot", s.tpot);
  add_latency(latency, "e2e", s.end_to_end);
  latency.close();
  add_generator(root, s);
  root.close();
  return out;
}

std::string text_report(const LoadOptions& options, const RunResult& result) {
  const Statistics& s = result.statistics;
  const std::uint64_t ok = ended_with(s, Outcome::kOk);
  std::string out;
  const auto to = std::back_inserter(out);
  fmt::format_to(to, "{}:{}{}{}, model {}\n{}\n", options.server.host, options.server.port,
                 options.server.path, path_of(options.request.endpoint), options.request.model,
                 describe_load(options));
  fmt::format_to(to, "\nrequests   {} ok, {} failed, in {:.1f} s", ok, measured_failures(s),
                 to_seconds(result.window_time));
  if (ok != s.requests_in_window) {
    fmt::format_to(to, "; rates are of {} that ended within them", s.requests_in_window);
  }
  out += '\n';
  add_error_lines(out, s);
  const bool prompts = counts_prompts(s);
  fmt::format_to(
      to, "rates      {} requests/s, {} output tokens/s, {} prompt tokens/s\n",
      figure_or_dash(per_second(static_cast<double>(s.requests_in_window), result)),
      figure_or_dash(per_second(s.output_tokens_in_window, result)),
      figure_or_dash(prompts ? per_second(static_cast<double>(s.prompt_tokens_in_window), result)
                             : std::nullopt));
  if (ok > 0) {
    const double count = static_cast<double>(ok);
    fmt::format_to(to, "tokens     {} output a request",
                   figure(static_cast<double>(s.output_tokens) / count));
    if (prompts) {
      const double with_usage = static_cast<double>(s.with_usage);
      fmt::format_to(to, ", {} prompt, of which {:.1f} % cached",
                     figure(static_cast<double>(s.prompt_tokens) / with_usage),
                     100 * ratio(s.cached_tokens, s.prompt_tokens).value_or(0));
    }
    out += '\n';
  }
  if (options.slo.any()) {
    const auto good = ratio(s.good, ended(s) - ended_with(s, Outcome::kUnfinished));
    fmt::format_to(to, "goodput    {} requests/s; {:.1f} % within the SLO\n",
                   figure_or_dash(per_second(static_cast<double>(s.good_in_window), result)),
                   100 * good.value_or(0));
  }
  if (s.end_to_end.count() > 0) {
    fmt::format_to(to, "\n{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "milliseconds", "p50",
                   "p90", "p99", "max", "mean", "count");
    add_row(out, "TTFT", s.ttft);
    add_row(out, "ITL", s.itl);
    add_row(out, "TPOT", s.tpot);
    add_row(out, "end to end", s.end_to_end);
    out += '\n';
  }
  add_notes(out, options, result);
  return out;
}

}  // namespace penstock::cli::load
