#include "cli/top/sample.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

namespace penstock::cli::top {
namespace {

namespace dom = simdjson::dom;

std::uint64_t number(const dom::element& object, const char* name) {
  double value = 0;
  return object[name].get(value) == simdjson::SUCCESS && value > 0
             ? static_cast<std::uint64_t>(value)
             : 0;
}

std::string text(const dom::element& object, const char* name) {
  std::string_view value;
  return object[name].get(value) == simdjson::SUCCESS ? std::string(value) : std::string();
}

/// Whatever the reasons are.
std::uint64_t missed_of(const dom::element& w) {
  dom::object reasons;
  std::uint64_t sum = 0;
  if (w["kv_blocks_missed"].get(reasons) != simdjson::SUCCESS) return 0;
  for (const auto& [reason, blocks] : reasons) {
    double value = 0;
    if (blocks.get(value) == simdjson::SUCCESS && value > 0) {
      sum += static_cast<std::uint64_t>(value);
    }
  }
  return sum;
}

WorkerSample worker_of(const dom::element& w) {
  dom::element cache;
  if (w["cache"].get(cache) != simdjson::SUCCESS) cache = w;
  return {.worker = number(w, "worker"),
          .state = text(w, "state"),
          .role = text(w, "role"),
          .trust = text(w, "trust"),
          .address = text(w, "address"),
          .doubt = text(w, "doubt"),
          .requests = number(w, "requests"),
          .running = number(w, "running"),
          .waiting = number(w, "waiting"),
          .prefill_tokens_left = number(w, "prefill_tokens_left"),
          .kv_blocks = number(w, "kv_blocks"),
          .kv_blocks_max = number(w, "kv_blocks_max"),
          .kv_blocks_active = number(w, "kv_blocks_active"),
          .kv_blocks_active_max = number(w, "kv_blocks_active_max"),
          .prompt_tokens = number(w, "prompt_tokens"),
          .cached_tokens = number(w, "cached_tokens"),
          .completion_tokens = number(w, "completion_tokens"),
          .forecasts = number(cache, "forecasts"),
          .forecasts_equal = number(cache, "forecasts_equal"),
          .errors = number(w, "errors"),
          .kv_leases = number(w, "kv_leases"),
          .kv_blocks_fetched = number(w, "kv_blocks_fetched"),
          .kv_bytes_fetched = number(w, "kv_bytes_fetched"),
          .kv_blocks_missed = missed_of(w),
          .kv_fetch_ms = number(w, "kv_fetch_ms")};
}

std::optional<double> to_number(std::string_view text) {
  if (text == "+Inf") return std::numeric_limits<double>::infinity();
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ec != std::errc{}) return std::nullopt;
  return value;
}

/// Calls `take(name, labels, value)` for each line of a page in Prometheus' text format.
template <class Take>
void for_each_metric(std::string_view page, Take take) {
  while (!page.empty()) {
    const std::size_t end = std::min(page.find('\n'), page.size());
    const std::string_view line = page.substr(0, end);
    page.remove_prefix(std::min(end + 1, page.size()));
    const std::size_t space = line.rfind(' ');
    if (line.starts_with('#') || space == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, space);
    const std::size_t brace = std::min(key.find('{'), key.size());
    if (const std::optional<double> value = to_number(line.substr(space + 1))) {
      take(key.substr(0, brace), key.substr(brace), *value);
    }
  }
}

/// The value of le="..." among labels.
std::optional<double> bound_of(std::string_view labels) {
  constexpr std::string_view kLe = "le=\"";
  const std::size_t at = labels.find(kLe);
  if (at == std::string_view::npos) return std::nullopt;
  labels.remove_prefix(at + kLe.size());
  return to_number(labels.substr(0, labels.find('"')));
}

void read_metrics(std::string_view page, Sample& sample) {
  const auto add = [](HistogramSample& histogram, std::string_view labels, double count) {
    if (const auto bound = bound_of(labels)) histogram.buckets.push_back({*bound, count});
  };
  for_each_metric(page, [&](std::string_view name, std::string_view labels, double value) {
    if (name == "penstock_requests_in_flight") sample.in_flight = value;
    if (name == "penstock_requests_total") sample.requests += value;
    if (name == "penstock_router_shed_total") sample.shed += value;
    if (name == "penstock_requests_split_total") sample.split += value;
    if (name == "penstock_completion_tokens_total") sample.completion_tokens = value;
    if (name == "penstock_time_to_first_token_seconds_bucket") add(sample.ttft, labels, value);
    if (name == "penstock_inter_token_latency_seconds_bucket") add(sample.gap, labels, value);
  });
}

}  // namespace

HistogramSample HistogramSample::since(const HistogramSample& before) const {
  HistogramSample fresh = *this;
  if (before.buckets.size() != buckets.size()) return fresh;
  for (std::size_t i = 0; i < fresh.buckets.size(); ++i) {
    fresh.buckets[i].count = std::max(0.0, buckets[i].count - before.buckets[i].count);
  }
  return fresh;
}

double HistogramSample::quantile_ms(double q) const {
  if (count() <= 0) return -1;
  const double rank = q * count();
  double low_s = 0;
  double below = 0;
  for (const Bucket& bucket : buckets) {
    if (bucket.count >= rank) {
      if (bucket.bound_s == std::numeric_limits<double>::infinity()) return low_s * 1e3;
      const double inside = (rank - below) / std::max(1e-9, bucket.count - below);
      return (low_s + (bucket.bound_s - low_s) * inside) * 1e3;
    }
    low_s = bucket.bound_s;
    below = bucket.count;
  }
  return low_s * 1e3;
}

Result<Sample> read_sample(std::string_view workers, std::string_view metrics, TimePoint at) {
  dom::parser parser;
  dom::element document;
  dom::array list;
  if (parser.parse(workers.data(), workers.size()).get(document) != simdjson::SUCCESS ||
      document["workers"].get(list) != simdjson::SUCCESS) {
    return fail(Code::kInvalidArgument, "/debug/workers did not answer with a list of workers");
  }
  Sample sample;
  sample.at = at;
  sample.model = text(document, "model");
  sample.policy = text(document, "policy");
  for (const dom::element& worker : list) {
    if (worker.is_object()) sample.workers.push_back(worker_of(worker));
  }
  read_metrics(metrics, sample);
  return sample;
}

}  // namespace penstock::cli::top
