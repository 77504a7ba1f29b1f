#include "serve/tier_metrics.h"

#include <string_view>
#include <type_traits>

#include "serve/internal/metric_families.h"

namespace penstock::serve {

TierMetrics::TierMetrics(prometheus::Registry& registry)
    : blocks_(gauges(registry, "penstock_kv_tier_blocks",
                     "KV blocks held behind the workers, by tier; of a worker of another process "
                     "with its number")),
      bytes_(gauges(registry, "penstock_kv_tier_disk_bytes", "Of segment files: now, and at most")),
      asked_(counters(registry, "penstock_kv_tier_asked_total",
                      "KV blocks that workers lacked and asked for")),
      given_(counters(registry, "penstock_kv_tier_given_total",
                      "Of those, given, by the tier they lay in")),
      missed_(counters(registry, "penstock_kv_tier_missed_total",
                       "Of those, held but not given, by reason")),
      refused_(counters(registry, "penstock_kv_tier_refused_total",
                        "KV blocks offered and not kept, by reason")),
      moved_(counters(registry, "penstock_kv_tier_disk_bytes_total", "Bytes moved, by direction")),
      segments_(counters(registry, "penstock_kv_tier_segments_lost_total",
                         "Segments given up: dropped for newer ones, or quarantined")),
      load_(counters(registry, "penstock_kv_tier_load_seconds_total",
                     "Loading prefixes: as predicted when it was chosen, and as it took")),
      breaker_(gauges(registry, "penstock_kv_tier_breaker_open",
                      "1 while the disk is left alone: it failed, is full or does not answer; by "
                      "direction")),
      recovered_(gauges(registry, "penstock_kv_tier_recovered_blocks",
                        "KV blocks found on disk at the start")) {}

template <class Visit>
void TierMetrics::each(const tiers::Stats& stats, const std::string& worker, Visit visit) {
  prometheus::Labels whose;
  if (!worker.empty()) whose = {{"worker", worker}};
  const auto show = [&](auto& family, const char* label, std::string_view value, auto now) {
    prometheus::Labels labels = whose;
    labels.emplace(label, value);
    visit(family, labels, static_cast<double>(now));
  };
  show(blocks_, "tier", "host", stats.host_blocks);
  show(blocks_, "tier", "disk", stats.disk_blocks);
  show(bytes_, "what", "used", stats.disk_bytes);
  show(bytes_, "what", "max", stats.disk_bytes_max);
  show(breaker_, "direction", "read", stats.reads_paused);
  show(breaker_, "direction", "written", stats.writes_paused);
  visit(recovered_, whose, static_cast<double>(stats.recovered_blocks));
  visit(asked_, whose, static_cast<double>(stats.asked));
  show(given_, "tier", "host", stats.given[static_cast<std::size_t>(tiers::Tier::kHost)]);
  show(given_, "tier", "disk", stats.given[static_cast<std::size_t>(tiers::Tier::kDisk)]);
  for (std::size_t i = 0; i < tiers::kReasons; ++i) {
    const std::string_view reason = to_string(static_cast<tiers::Reason>(i));
    show(missed_, "reason", reason, stats.missed[i]);
    show(refused_, "reason", reason, stats.refused[i]);
  }
  show(moved_, "direction", "read", stats.bytes_read);
  show(moved_, "direction", "written", stats.bytes_written);
  show(segments_, "why", "dropped", stats.segments_dropped);
  show(segments_, "why", "quarantined", stats.segments_quarantined);
  show(load_, "time", "predicted", stats.load_predicted_s);
  show(load_, "time", "taken", stats.load_taken_s);
}

void TierMetrics::set(const tiers::Stats& stats, const std::string& worker) {
  each(stats, worker, [](auto& family, const prometheus::Labels& labels, double now) {
    if constexpr (std::is_same_v<decltype(family), Gauges&>) {
      family.Add(labels).Set(now);
    } else {
      raise_to(family.Add(labels), now);
    }
  });
}

void TierMetrics::forget(const std::string& worker) {
  each({}, worker,
       [](auto& family, const prometheus::Labels& labels, double) { remove(family, labels); });
}

}  // namespace penstock::serve
