#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>
#include <sstream>

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

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;

  template <class Family>
  prometheus::Family<Family>& add(prometheus::Family<Family>& family) {
    return family;
  }
  prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<prometheus::Gauge>& gauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
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
  prometheus::Histogram& ttft =
      histogram("penstock_time_to_first_token_seconds",
                "From the whole request read to its first token", 1e-4, 1000);
  prometheus::Histogram& itl = histogram("penstock_inter_token_latency_seconds",
                                         "Between two tokens of one answer", 1e-4, 100);
  prometheus::Counter& prompt_tokens =
      counter("penstock_prompt_tokens_total", "Prompt tokens of requests that began").Add({});
  prometheus::Counter& cached_tokens =
      counter("penstock_cached_prompt_tokens_total", "Of those, taken from KV computed before")
          .Add({});
  prometheus::Counter& completion_tokens =
      counter("penstock_completion_tokens_total", "Tokens answered").Add({});
  prometheus::Family<prometheus::Counter>& cancelled =
      counter("penstock_requests_cancelled_total",
              "Requests ended before their answer was complete, by reason");
  prometheus::Counter& unknown_fields = counter("penstock_unknown_request_fields_total",
                                                "Request fields ignored because they are not known")
                                            .Add({});
  prometheus::Gauge& in_flight =
      gauge("penstock_requests_in_flight", "Requests being answered").Add({});
  prometheus::Gauge& ready = gauge("penstock_ready", "1 when a model can be served").Add({});
  prometheus::Gauge& connections = gauge("penstock_http_connections", "Open connections").Add({});
  prometheus::Gauge& connections_refused =
      gauge("penstock_http_connections_refused", "Connections refused since start: over the limit")
          .Add({});
  prometheus::Gauge& http_bad_requests =
      gauge("penstock_http_bad_requests", "Requests since start that broke HTTP or its limits")
          .Add({});
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
  prometheus::Family<prometheus::Gauge>& steps =
      gauge("penstock_worker_steps", "Batches computed since start");
  prometheus::Family<prometheus::Gauge>& evicted =
      gauge("penstock_worker_kv_blocks_evicted", "KV blocks evicted since start");
  prometheus::Family<prometheus::Gauge>& preemptions =
      gauge("penstock_worker_preemptions", "Sequences preempted since start");
  prometheus::Family<prometheus::Gauge>& errors =
      gauge("penstock_worker_errors", "Sequences that failed since start");
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {}
Metrics::~Metrics() = default;

void Metrics::request_done(std::string_view endpoint, int status, double duration_s) {
  families_->requests.Add({{"endpoint", std::string(endpoint)}, {"status", std::to_string(status)}})
      .Increment();
  families_->duration.Observe(duration_s);
}
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
void Metrics::unknown_fields(std::size_t count) {
  families_->unknown_fields.Increment(static_cast<double>(count));
}

void Metrics::set(const Gauges& g) {
  families_->in_flight.Set(g.in_flight);
  families_->ready.Set(g.ready ? 1 : 0);
  families_->connections.Set(g.connections);
  families_->connections_refused.Set(g.connections_refused);
  families_->http_bad_requests.Set(g.http_bad_requests);
  families_->loop_lag.Set(g.loop_lag_max_s);
}

void Metrics::set(std::size_t worker, const WorkerGauges& g) {
  const std::map<std::string, std::string> label = {{"worker", std::to_string(worker)}};
  families_->running.Add(label).Set(g.running);
  families_->waiting.Add(label).Set(g.waiting);
  families_->waiting_prefill.Add(label).Set(g.waiting_prefill_tokens);
  families_->kv_used.Add(label).Set(g.kv_blocks_used);
  families_->kv_max.Add(label).Set(g.kv_blocks_max);
  families_->steps.Add(label).Set(g.steps);
  families_->evicted.Add(label).Set(g.blocks_evicted);
  families_->preemptions.Add(label).Set(g.preemptions);
  families_->errors.Add(label).Set(g.sequence_errors);
}

std::string Metrics::page() const {
  return prometheus::TextSerializer().Serialize(families_->registry.Collect());
}

}  // namespace penstock::serve
