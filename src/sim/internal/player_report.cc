#include <algorithm>

#include "sim/internal/player.h"

namespace penstock::sim {
namespace {

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

Report Player::report() const {
  Report r{.policy = setup_.policy, .requests = outcomes_.size(), .rejected = rejected_};
  std::uint64_t cached = 0;
  for (std::size_t i = 0; i < outcomes_.size(); ++i) {
    const Outcome& outcome = outcomes_[i];
    r.failed += outcome.failed ? 1 : 0;
    r.shed += outcome.shed ? 1 : 0;
    if (!outcome.completed) continue;
    ++r.completed;
    r.output_tokens += outcome.tokens;
    r.input_tokens += trace_.requests[i].input_tokens;
    cached += outcome.cached_tokens;
  }
  add_latencies(r);
  r.duration_ms = to_ms(last_completion_);
  const double duration_s = r.duration_ms / 1e3;
  r.requests_per_s = ratio(static_cast<double>(r.completed), duration_s);
  r.output_tokens_per_s = ratio(static_cast<double>(r.output_tokens), duration_s);
  const auto input = static_cast<double>(r.input_tokens);
  r.prefix_hit_ratio = ratio(static_cast<double>(cached), input);
  r.predicted_hit_ratio = ratio(static_cast<double>(predicted_cached_tokens_), input);
  add_tiers(r);
  r.imbalance = imbalance();
  for (const auto& worker : workers_) {
    r.passes += worker->passes_before + worker->model->passes();
    r.preemptions += worker->preemptions_before + worker->model->preemptions();
  }
  r.retries = retries_;
  r.kv_replays = kv_replays_;
  r.kv_snapshots = kv_snapshots_;
  if (setup_.series) r.series = series();
  return r;
}

void Player::add_tiers(Report& r) const {
  if (!setup_.tiers.any()) return;
  TierModel::Counts all;
  for (const auto& worker : workers_) {
    const TierModel::Counts& counts = worker->feed->tiers->counts();
    all.from_host += counts.from_host;
    all.from_disk += counts.from_disk;
    all.written += counts.written;
  }
  const auto input = static_cast<double>(r.input_tokens);
  const double tokens = setup_.model.block_tokens;
  r.host_hit_ratio = ratio(tokens * static_cast<double>(all.from_host), input);
  r.disk_hit_ratio = ratio(tokens * static_cast<double>(all.from_disk), input);
  r.disk_bytes_written = all.written * setup_.model.block_tokens * setup_.kv_bytes_per_token;
  r.disk_bytes_per_token = ratio(static_cast<double>(r.disk_bytes_written),
                                 static_cast<double>(r.input_tokens + r.output_tokens));
}

void Player::add_latencies(Report& r) const {
  std::vector<double> ttft;
  std::vector<double> e2e;
  std::vector<double> tpot;
  double gap_sum_ms = 0;
  std::uint64_t good = 0;
  ttft.reserve(r.completed);
  e2e.reserve(r.completed);
  tpot.reserve(r.completed);
  for (const Outcome& outcome : outcomes_) {
    if (!outcome.completed) continue;
    ttft.push_back(to_ms(outcome.first - outcome.arrival));
    e2e.push_back(to_ms(outcome.last - outcome.arrival));
    const double stream_ms = to_ms(outcome.last - outcome.first);
    gap_sum_ms += stream_ms;
    double own_ms = 0;
    if (outcome.tokens > 1) {
      own_ms = stream_ms / (outcome.tokens - 1);
      tpot.push_back(own_ms);
    }
    good += ttft.back() <= setup_.slo.ttft_ms && own_ms <= setup_.slo.itl_ms ? 1 : 0;
  }
  r.ttft_ms = latency_of(ttft);
  r.e2e_ms = latency_of(e2e);
  r.tpot_ms = latency_of(tpot);
  r.itl_ms = gaps_.latency();
  r.itl_ms.mean = ratio(gap_sum_ms, static_cast<double>(r.output_tokens - r.completed));
  r.goodput_ratio = ratio(static_cast<double>(good), static_cast<double>(r.requests));
}

Series Player::series() const {
  Series series;
  TimeStrip waiting;
  TimeStrip running;
  TimeStrip tokens;
  for (const Outcome& outcome : outcomes_) {
    if (!outcome.completed) continue;
    series.ttft_ms.push_back(to_ms(outcome.first - outcome.arrival));
    waiting.add(outcome.arrival, outcome.first, ns(outcome.first - outcome.arrival));
    running.add(outcome.first, outcome.last, ns(outcome.last - outcome.first));
    tokens.add(outcome.first, outcome.last, outcome.tokens);
    if (outcome.tokens < 2) continue;
    series.tpot_ms.push_back(to_ms(outcome.last - outcome.first) / (outcome.tokens - 1));
  }
  std::ranges::sort(series.ttft_ms);
  std::ranges::sort(series.tpot_ms);
  const auto used = [&](TimeStrip& strip, Nanos unit) {
    strip.cover(last_completion_ + Nanos(1));
    const auto count = static_cast<std::ptrdiff_t>(last_completion_ / strip.width()) + 1;
    std::vector<double> values(strip.buckets().begin(), strip.buckets().begin() + count);
    for (double& value : values) value *= ns(unit) / ns(strip.width());
    return values;
  };
  series.waiting = used(waiting, Nanos(1));
  series.running = used(running, Nanos(1));
  series.tokens_per_s = used(tokens, std::chrono::seconds(1));
  for (const auto& worker : workers_) {
    series.busy.push_back(used(*worker->busy_strip, Nanos(1)));
  }
  series.bucket_ms = to_ms(tokens.width());
  return series;
}

double Player::imbalance() const {
  double worst = 1;
  for (const fleet::Role role : {fleet::Role::kBoth, fleet::Role::kPrefill, fleet::Role::kDecode}) {
    double most = 0;
    double sum = 0;
    double count = 0;
    for (const auto& worker : workers_) {
      if (worker->role != role) continue;
      const double ms = to_ms(worker->computing);
      most = std::max(most, ms);
      sum += ms;
      ++count;
    }
    if (sum > 0) worst = std::max(worst, most / (sum / count));
  }
  return worst;
}

}  // namespace penstock::sim
