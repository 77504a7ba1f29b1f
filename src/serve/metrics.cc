#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "base/clock.h"
#include "base/version.h"
#include "serve/dispatcher.h"
#include "serve/fleet_metrics.h"
#include "serve/internal/metric_families.h"
#include "serve/tier_metrics.h"

namespace penstock::serve {
namespace {

/// Upper bounds in seconds, four a decade from `lowest` to `highest`.
prometheus::Histogram::BucketBoundaries decades(double lowest, double highest) {
  prometheus::Histogram::BucketBoundaries bounds;
  for (double decade = lowest; decade < highest * 0.999; decade *= 10) {
    for (const double step : {1.0, 2.0, 3.5, 6.0}) bounds.push_back(decade * step);
  }
  bounds.push_back(highest);
  return bounds;
}

constexpr std::array kTrusts = {fleet::Trust::kExact, fleet::Trust::kCatchingUp,
                                fleet::Trust::kDegraded, fleet::Trust::kLoadOnly};

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;
  FleetMetrics fleet{registry};
  TierMetrics tiers{registry};
  std::mutex workers_mutex;               // of what is set for workers
  std::map<kv::Slot, std::string> lives;  // that are shown, under their numbers
  std::set<std::string_view> rules;

  /// A number may be another worker's now, which counts from nothing.
  void forget_gone(const std::vector<WorkerView>& workers) {
    std::map<kv::Slot, std::string> now;
    for (const WorkerView& worker : workers) now[worker.slot] = worker.instance;
    for (const auto& [slot, instance] : std::exchange(lives, now)) {
      const auto same = now.find(slot);
      if (same != now.end() && same->second == instance) continue;
      const std::string number = std::to_string(slot);
      fleet.forget(number);
      tiers.forget(number);
      for (auto* family : {&running, &waiting, &waiting_prefill, &kv_used, &kv_max, &kv_active,
                           &kv_active_max, &worker_requests, &kv_leases}) {
        remove(*family, {{"worker", number}});
      }
      for (auto* family :
           {&steps, &evicted, &preemptions, &errors, &worker_prompt, &worker_cached,
            &worker_completion, &predicted_cached, &reported_cached, &forecasts, &forecasts_equal,
            &shed, &kv_lapsed, &kv_fetched, &kv_fetched_bytes, &kv_fetching}) {
        remove(*family, {{"worker", number}});
      }
      for (std::size_t i = 0; i < engine::kFetchMisses; ++i)
        remove(kv_missed, miss_label(number, i));
      for (std::size_t i = 0; i < transfer::kPathKinds; ++i) {
        for (const TransferSeries& series : transfers) {
          remove(series.family, path_label(number, i));
        }
      }
      for (const std::string_view rule : rules) {
        remove(decisions, {{"worker", number}, {"rule", std::string(rule)}});
      }
      for (const fleet::Trust state : kTrusts) {
        remove(trust, {{"worker", number}, {"trust", std::string(to_string(state))}});
      }
    }
  }

  static prometheus::Labels miss_label(const std::string& worker, std::size_t miss) {
    return {{"worker", worker},
            {"reason", std::string(to_string(static_cast<engine::FetchMiss>(miss)))}};
  }

  static prometheus::Labels path_label(const std::string& worker, std::size_t path) {
    return {{"worker", worker},
            {"path", std::string(to_string(static_cast<transfer::PathKind>(path)))}};
  }

  prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
    return counters(registry, name, help);
  }
  prometheus::Family<prometheus::Gauge>& gauge(const char* name, const char* help) {
    return gauges(registry, name, help);
  }
  prometheus::Histogram& histogram(const char* name, const char* help, double low, double high) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(
        {}, decades(low, high));
  }

  prometheus::Family<prometheus::Counter>& requests =
      counter("penstock_requests_total", "Requests answered, by endpoint and HTTP status");
  prometheus::Histogram& duration =
      histogram("penstock_request_duration_seconds",
                "From the whole request read to its answer complete", 1e-4, 1000);
  prometheus::Histogram& queue_time =
      histogram("penstock_request_queue_time_seconds",
                "From the whole request read until a worker began with it; each choice by itself",
                1e-4, 1000);
  prometheus::Histogram& ttft =
      histogram("penstock_time_to_first_token_seconds",
                "From the whole request read to its first token", 1e-4, 1000);
  prometheus::Histogram& itl = histogram("penstock_inter_token_latency_seconds",
                                         "Between two tokens of one answer", 1e-4, 100);
  prometheus::Counter& prompt_tokens =
      counter("penstock_prompt_tokens_total",
              "Prompt tokens of answers and embeddings that began, cut ones included; of several "
              "choices once")
          .Add({});
  prometheus::Counter& cached_tokens =
      counter("penstock_cached_prompt_tokens_total", "Of those, taken from KV computed before")
          .Add({});
  prometheus::Counter& completion_tokens =
      counter("penstock_completion_tokens_total", "Tokens answered, those of cut answers included")
          .Add({});
  prometheus::Counter& moved = counter("penstock_requests_moved_total",
                                       "Requests given to another worker because theirs was lost, "
                                       "full or hung before the first token")
                                   .Add({});
  prometheus::Family<prometheus::Counter>& split =
      counter("penstock_requests_split_total",
              "Requests whose prompt was given to another worker than the answer, by what became "
              "of it: handed_over, or recomputed because it could not be");
  prometheus::Family<prometheus::Counter>& cancelled =
      counter("penstock_requests_cancelled_total",
              "Requests ended before their answer was complete, by reason");
  prometheus::Counter& unknown_fields = counter("penstock_unknown_request_fields_total",
                                                "Request fields ignored because they are not known")
                                            .Add({});
  prometheus::Gauge& in_flight =
      gauge("penstock_requests_in_flight", "Requests being answered").Add({});
  prometheus::Gauge& requests_max =
      gauge("penstock_workers_requests_max",
            "Requests that the workers take at once, running and waiting; more are 429")
          .Add({});
  prometheus::Gauge& ready =
      gauge("penstock_ready", "1 while a model is there and a worker takes requests").Add({});
  prometheus::Gauge& connections = gauge("penstock_http_connections", "Open connections").Add({});
  prometheus::Counter& connections_refused =
      counter("penstock_http_connections_refused_total", "Connections over the limit").Add({});
  prometheus::Family<prometheus::Counter>& rejected =
      counter("penstock_http_rejected_total",
              "Requests that broke HTTP or its limits, by status; not among requests_total");
  prometheus::Family<prometheus::Gauge>& bodies =
      gauge("penstock_http_bodies_bytes",
            "Of large request bodies: taken now, and max, above which they are 503");
  prometheus::Family<prometheus::Counter>& lookups =
      counter("penstock_tokenizer_lookups_total",
              "Pieces of prompts looked up before they are tokenized, by kind (word, segment) and "
              "whether they were found");
  prometheus::Gauge& resident =
      gauge("process_resident_memory_bytes", "Resident memory size in bytes").Add({});
  prometheus::Gauge& open_fds =
      gauge("process_open_fds", "Number of open file descriptors").Add({});
  prometheus::Gauge& loop_lag =
      gauge("penstock_loop_lag_max_seconds", "The longest an event loop was kept busy in one turn")
          .Add({});
  prometheus::Family<prometheus::Gauge>& running =
      gauge("penstock_worker_running", "Sequences running");
  prometheus::Family<prometheus::Gauge>& waiting =
      gauge("penstock_worker_waiting", "Requests waiting for a place");
  prometheus::Family<prometheus::Gauge>& waiting_prefill =
      gauge("penstock_worker_waiting_prefill_tokens", "Prompt tokens not computed yet");
  prometheus::Family<prometheus::Gauge>& kv_used =
      gauge("penstock_worker_kv_blocks", "Reusable KV blocks held");
  prometheus::Family<prometheus::Gauge>& kv_max =
      gauge("penstock_worker_kv_blocks_max", "Reusable KV blocks that fit");
  prometheus::Family<prometheus::Gauge>& kv_active =
      gauge("penstock_worker_kv_blocks_active", "KV blocks that running requests use");
  prometheus::Family<prometheus::Gauge>& kv_active_max =
      gauge("penstock_worker_kv_blocks_active_max", "KV blocks that running requests can use");
  prometheus::Family<prometheus::Counter>& steps =
      counter("penstock_worker_steps_total", "Batches computed");
  prometheus::Family<prometheus::Counter>& evicted =
      counter("penstock_worker_kv_blocks_evicted_total", "KV blocks evicted");
  prometheus::Family<prometheus::Counter>& preemptions =
      counter("penstock_worker_preemptions_total", "Sequences preempted");
  prometheus::Family<prometheus::Counter>& errors =
      counter("penstock_worker_errors_total", "Sequences that failed");
  prometheus::Family<prometheus::Gauge>& worker_requests =
      gauge("penstock_worker_requests", "Requests given to it that have not ended");
  prometheus::Family<prometheus::Counter>& worker_prompt =
      counter("penstock_worker_prompt_tokens_total", "Prompt tokens of requests it began");
  prometheus::Family<prometheus::Counter>& worker_cached = counter(
      "penstock_worker_cached_prompt_tokens_total", "Of those, taken from KV computed before");
  prometheus::Family<prometheus::Counter>& worker_completion =
      counter("penstock_worker_completion_tokens_total", "Tokens it made");
  prometheus::Family<prometheus::Gauge>& trust =
      gauge("penstock_worker_trust", "1: so far the picture of its cache can be believed");

  prometheus::Family<prometheus::Gauge>& kv_leases =
      gauge("penstock_worker_kv_leases", "Prompts whose KV is kept for other workers");
  prometheus::Family<prometheus::Counter>& kv_lapsed =
      counter("penstock_worker_kv_leases_lapsed_total", "Of those, not given back in time");
  prometheus::Family<prometheus::Counter>& kv_fetched =
      counter("penstock_worker_kv_fetched_blocks_total", "KV blocks taken over from other workers");
  prometheus::Family<prometheus::Counter>& kv_fetched_bytes =
      counter("penstock_worker_kv_fetched_bytes_total", "Bytes of those");
  prometheus::Family<prometheus::Counter>& kv_fetching =
      counter("penstock_worker_kv_fetch_seconds_total", "Time that prompts waited for such blocks");
  prometheus::Family<prometheus::Counter>& kv_missed =
      counter("penstock_worker_kv_fetch_missed_total",
              "KV blocks that were to be had from another worker and were computed, by reason");

  struct TransferSeries {
    prometheus::Family<prometheus::Counter>& family;
    double (*value)(const transfer::PathTraffic& traffic);
  };
  std::array<TransferSeries, 6> transfers{{
      {counter("penstock_worker_kv_transfer_pulls_total",
               "Attempts to pull KV from another worker, by path (local, shared, cma, tcp)"),
       [](const auto& traffic) { return static_cast<double>(traffic.pulls); }},
      {counter("penstock_worker_kv_transfer_retries_total",
               "Of those, made because another path had failed"),
       [](const auto& traffic) { return static_cast<double>(traffic.retries); }},
      {counter("penstock_worker_kv_transfer_blocks_total", "KV blocks that arrived by the path"),
       [](const auto& traffic) { return static_cast<double>(traffic.blocks); }},
      {counter("penstock_worker_kv_transfer_failed_blocks_total",
               "KV blocks that the path lost or brought wrong; another is tried, if there is one"),
       [](const auto& traffic) { return static_cast<double>(traffic.failed_blocks); }},
      {counter("penstock_worker_kv_transfer_bytes_total", "Bytes of the blocks that arrived"),
       [](const auto& traffic) { return static_cast<double>(traffic.bytes); }},
      {counter("penstock_worker_kv_transfer_seconds_total",
               "Time that the attempts took once begun; over bytes, what the path costs"),
       [](const auto& traffic) { return to_seconds(traffic.took); }},
  }};

  prometheus::Histogram& decision =
      histogram("penstock_router_decision_seconds",
                "Choosing a worker, hashing the prompt included", 1e-6, 1);
  prometheus::Family<prometheus::Counter>& decisions =
      counter("penstock_router_decisions_total", "Requests placed, by worker and deciding rule");
  prometheus::Family<prometheus::Counter>& predicted_cached =
      counter("penstock_router_predicted_cached_tokens_total",
              "Prompt tokens expected to be cached at the chosen worker, whole blocks");
  prometheus::Family<prometheus::Counter>& reported_cached =
      counter("penstock_router_reported_cached_tokens_total",
              "Of the same requests, those the worker found cached, whole blocks");
  prometheus::Family<prometheus::Counter>& forecasts =
      counter("penstock_router_forecasts_total",
              "Requests whose cached tokens were predicted and reported");
  prometheus::Family<prometheus::Counter>& forecasts_equal =
      counter("penstock_router_forecasts_equal_total", "Of those, predicted to the token");
  prometheus::Family<prometheus::Counter>& shed =
      counter("penstock_router_shed_total",
              "Requests refused because their first token would have come too late");
  prometheus::Gauge& index_blocks =
      gauge("penstock_index_blocks", "Distinct blocks in the prefix index").Add({});
  prometheus::Gauge& index_bytes =
      gauge("penstock_index_bytes", "Memory of the prefix index").Add({});
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {
  families_->gauge("penstock_build_info", "1; which build this is")
      .Add({{"version", kVersion}})
      .Set(1);
}
Metrics::~Metrics() = default;

void Metrics::request_done(std::string_view endpoint, int status, double duration_s) {
  families_->requests.Add({{"endpoint", std::string(endpoint)}, {"status", std::to_string(status)}})
      .Increment();
  families_->duration.Observe(duration_s);
}
void Metrics::refused(std::string_view endpoint, int status) {
  families_->requests.Add({{"endpoint", std::string(endpoint)}, {"status", std::to_string(status)}})
      .Increment();
}
void Metrics::queued(double since_request_s) { families_->queue_time.Observe(since_request_s); }
void Metrics::first_token(double since_request_s) { families_->ttft.Observe(since_request_s); }
void Metrics::token_gap(double gap_s, std::uint32_t tokens) {
  for (std::uint32_t i = 0; i < tokens; ++i) families_->itl.Observe(gap_s);
}
void Metrics::tokens(std::uint32_t prompt, std::uint32_t cached, std::uint32_t completion) {
  families_->prompt_tokens.Increment(prompt);
  families_->cached_tokens.Increment(cached);
  families_->completion_tokens.Increment(completion);
}
void Metrics::cancelled(std::string_view reason) {
  families_->cancelled.Add({{"reason", std::string(reason)}}).Increment();
}
void Metrics::moved() { families_->moved.Increment(); }
void Metrics::split(std::string_view outcome) {
  families_->split.Add({{"outcome", std::string(outcome)}}).Increment();
}
void Metrics::unknown_fields(std::size_t count) {
  families_->unknown_fields.Increment(static_cast<double>(count));
}

void Metrics::looked_up(const text::TokenizerCache::Stats& before,
                        const text::TokenizerCache::Stats& after) {
  const auto count = [&](const char* kind, const char* found, std::uint64_t more) {
    if (more == 0) return;
    families_->lookups.Add({{"kind", kind}, {"found", found}}).Increment(static_cast<double>(more));
  };
  count("word", "true", after.word_hits - before.word_hits);
  count("word", "false", after.word_misses - before.word_misses);
  count("segment", "true", after.segment_hits - before.segment_hits);
  count("segment", "false", after.segment_misses - before.segment_misses);
}

void Metrics::set(const Gauges& g) {
  families_->in_flight.Set(g.in_flight);
  families_->requests_max.Set(g.requests_max);
  families_->ready.Set(g.ready ? 1 : 0);
}

void Metrics::set(const net::HttpServerStats& stats) {
  Families& f = *families_;
  f.connections.Set(static_cast<double>(stats.connections_open));
  raise_to(f.connections_refused, static_cast<double>(stats.connections_refused));
  for (std::size_t i = 0; i < net::kRejections.size(); ++i) {
    raise_to(f.rejected.Add({{"status", std::to_string(net::kRejections[i])}}),
             static_cast<double>(stats.rejected[i]));
  }
  f.bodies.Add({{"what", "taken"}}).Set(static_cast<double>(stats.bodies_bytes));
  f.bodies.Add({{"what", "max"}}).Set(static_cast<double>(stats.bodies_bytes_max));
  f.loop_lag.Set(to_seconds(stats.loop_lag_max));
}

void Metrics::set(const ProcessStats& stats) {
  families_->resident.Set(static_cast<double>(stats.resident_bytes));
  families_->open_fds.Set(static_cast<double>(stats.open_descriptors));
}

void Metrics::routed(double duration_s) { families_->decision.Observe(duration_s); }

void Metrics::set(const DispatcherView& view) {
  Families& f = *families_;
  f.index_blocks.Set(static_cast<double>(view.index.blocks));
  f.index_bytes.Set(static_cast<double>(view.index.memory_bytes));
  const std::lock_guard lock(f.workers_mutex);
  f.forget_gone(view.workers);
  f.fleet.set(view);
  if (view.tiers) f.tiers.set(*view.tiers, "");
  for (const WorkerView& worker : view.workers) {
    const engine::LoadReport& load = worker.load;
    const std::string number = std::to_string(worker.slot);
    const prometheus::Labels label = {{"worker", number}};
    const auto set = [&](prometheus::Family<prometheus::Gauge>& family, auto value) {
      family.Add(label).Set(static_cast<double>(value));
    };
    const auto raise = [&](prometheus::Family<prometheus::Counter>& family, std::uint64_t total) {
      raise_to(family.Add(label), static_cast<double>(total));
    };
    if (worker.tiers) f.tiers.set(*worker.tiers, number);
    set(f.running, load.running);
    set(f.waiting, load.waiting);
    set(f.waiting_prefill, load.waiting_prefill_tokens);
    set(f.kv_used, load.kv_blocks_used);
    set(f.kv_max, load.kv_blocks_max);
    set(f.kv_active, load.kv_blocks_active);
    set(f.kv_active_max, load.kv_blocks_active_max);
    raise(f.steps, load.steps);
    raise(f.evicted, load.blocks_evicted);
    raise(f.preemptions, load.preemptions);
    raise(f.errors, load.sequence_errors);
    set(f.worker_requests, worker.requests);
    raise(f.worker_prompt, load.prompt_tokens);
    raise(f.worker_cached, load.cached_tokens);
    raise(f.worker_completion, load.completion_tokens);
    raise(f.predicted_cached, worker.forecast.predicted_tokens);
    raise(f.reported_cached, worker.forecast.reported_tokens);
    raise(f.forecasts, worker.forecast.compared);
    raise(f.forecasts_equal, worker.forecast.equal);
    raise(f.shed, worker.shed);
    set(f.kv_leases, load.kv_leases);
    raise(f.kv_lapsed, load.kv_leases_lapsed);
    raise(f.kv_fetched, load.kv_blocks_fetched);
    raise(f.kv_fetched_bytes, load.kv_bytes_fetched);
    raise_to(f.kv_fetching.Add(label), to_seconds(load.kv_fetching));
    for (std::size_t i = 0; i < engine::kFetchMisses; ++i) {
      raise_to(f.kv_missed.Add(Families::miss_label(number, i)),
               static_cast<double>(load.kv_blocks_missed[i]));
    }
    for (std::size_t i = 0; i < transfer::kPathKinds; ++i) {
      if (load.kv_transfers[i].pulls == 0) continue;  // most have one path or none
      for (const Families::TransferSeries& series : f.transfers) {
        raise_to(series.family.Add(Families::path_label(number, i)),
                 series.value(load.kv_transfers[i]));
      }
    }
    for (const auto& [rule, count] : worker.decisions) {
      f.rules.insert(rule);
      raise_to(f.decisions.Add({{"worker", number}, {"rule", std::string(rule)}}),
               static_cast<double>(count));
    }
    for (const fleet::Trust trust : kTrusts) {
      f.trust.Add({{"worker", number}, {"trust", std::string(to_string(trust))}})
          .Set(trust == worker.trust ? 1 : 0);
    }
  }
}

std::string Metrics::page() const {
  return prometheus::TextSerializer().Serialize(families_->registry.Collect());
}

}  // namespace penstock::serve
