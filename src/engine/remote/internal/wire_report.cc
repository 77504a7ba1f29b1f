// Load reports on the wire.
#include <algorithm>
#include <limits>

#include "engine/remote/internal/wire.h"

namespace penstock::engine::wire {
namespace {

void write_pass(const PassWork& pass, ps::LoadReport::PassWork& out) {
  out.set_prefill_tokens(pass.prefill_tokens);
  out.set_decodes(pass.decodes);
  out.set_kv_use(pass.kv_use);
}

// What a worker reports is computed with: nothing in it may be beyond what one could mean.
constexpr std::uint32_t kReportedTokensMax = 1U << 24;
constexpr std::int64_t kReportedNanosMax = std::int64_t{3600} * 1'000'000'000;

PassWork read_pass(const ps::LoadReport::PassWork& in) {
  return {.prefill_tokens = std::min(in.prefill_tokens(), kReportedTokensMax),
          .decodes = in.decodes(),
          .kv_use = in.kv_use() >= 0 ? std::min(in.kv_use(), 1.0) : 0};  // NaN too
}

void write_timed(const TimedPass& pass, ps::LoadReport::TimedPass& out) {
  out.set_ordinal(pass.ordinal);
  write_pass(pass.work, *out.mutable_work());
  out.set_took_ns(pass.took.count());
}

/// By an enumeration that the other side may know more or less of.
template <std::size_t kCount>
void write_each(const std::array<std::uint64_t, kCount>& counts,
                google::protobuf::RepeatedField<std::uint64_t>& out) {
  out.Assign(counts.begin(), counts.end());
}

template <std::size_t kCount>
void read_each(const google::protobuf::RepeatedField<std::uint64_t>& in,
               std::array<std::uint64_t, kCount>& counts) {
  const auto known = std::min(kCount, static_cast<std::size_t>(in.size()));
  std::copy_n(in.begin(), known, counts.begin());
}

void write_kv_moves(const LoadReport& report, ps::LoadReport& out) {
  out.set_kv_leases(report.kv_leases);
  out.set_kv_leases_lapsed(report.kv_leases_lapsed);
  out.set_kv_blocks_fetched(report.kv_blocks_fetched);
  out.set_kv_bytes_fetched(report.kv_bytes_fetched);
  write_each(report.kv_blocks_missed, *out.mutable_kv_blocks_missed());
  out.set_kv_fetching_ns(report.kv_fetching.count());
  ps::LoadReport::TimedFetch& fetch = *out.mutable_last_fetch();
  fetch.set_ordinal(report.last_fetch.ordinal);
  fetch.set_blocks(report.last_fetch.blocks);
  fetch.set_took_ns(report.last_fetch.took.count());
  for (const transfer::PathTraffic& traffic : report.kv_transfers) {
    ps::LoadReport::PathTraffic& path = *out.add_kv_transfers();
    path.set_pulls(traffic.pulls);
    path.set_retries(traffic.retries);
    path.set_blocks(traffic.blocks);
    path.set_failed_blocks(traffic.failed_blocks);
    path.set_bytes(traffic.bytes);
    path.set_took_ns(traffic.took.count());
  }
}

void read_kv_moves(const ps::LoadReport& in, LoadReport& out) {
  out.kv_leases = in.kv_leases();
  out.kv_leases_lapsed = in.kv_leases_lapsed();
  out.kv_blocks_fetched = in.kv_blocks_fetched();
  out.kv_bytes_fetched = in.kv_bytes_fetched();
  read_each(in.kv_blocks_missed(), out.kv_blocks_missed);
  out.kv_fetching = Nanos(std::max<std::int64_t>(0, in.kv_fetching_ns()));
  const int paths = std::min(in.kv_transfers_size(), static_cast<int>(transfer::kPathKinds));
  for (int i = 0; i < paths; ++i) {
    const ps::LoadReport::PathTraffic& path = in.kv_transfers(i);
    out.kv_transfers[static_cast<std::size_t>(i)] = {
        .pulls = path.pulls(),
        .retries = path.retries(),
        .blocks = path.blocks(),
        .failed_blocks = path.failed_blocks(),
        .bytes = path.bytes(),
        .took = Nanos(std::max<std::int64_t>(0, path.took_ns()))};
  }
  if (in.last_fetch().blocks() == 0) return;  // it is divided by
  out.last_fetch = {
      .ordinal = in.last_fetch().ordinal(),
      .blocks = std::min(in.last_fetch().blocks(), kReportedTokensMax),
      .took = Nanos(std::clamp<std::int64_t>(in.last_fetch().took_ns(), 0, kReportedNanosMax))};
}

TimedPass read_timed(const ps::LoadReport::TimedPass& in) {
  return {.ordinal = in.ordinal(),
          .work = read_pass(in.work()),
          .took = Nanos(std::clamp<std::int64_t>(in.took_ns(), 0, kReportedNanosMax))};
}

}  // namespace

void write(const LoadReport& report, TimePoint now, ps::LoadReport& out) {
  out.set_generation(report.generation);
  out.set_running(report.running);
  out.set_waiting(report.waiting);
  out.set_in_inbox(report.in_inbox);
  out.set_accepted(report.accepted);
  out.set_waiting_prefill_tokens(report.waiting_prefill_tokens);
  out.set_running_prefill_tokens(report.running_prefill_tokens);
  out.set_kv_blocks_used(report.kv_blocks_used);
  out.set_kv_blocks_max(report.kv_blocks_max);
  out.set_kv_blocks_active(report.kv_blocks_active);
  out.set_kv_blocks_active_max(report.kv_blocks_active_max);
  out.set_steps(report.steps);
  out.set_prompt_tokens(report.prompt_tokens);
  out.set_cached_tokens(report.cached_tokens);
  out.set_completion_tokens(report.completion_tokens);
  out.set_preemptions(report.preemptions);
  out.set_blocks_evicted(report.blocks_evicted);
  out.set_sequence_errors(report.sequence_errors);
  out.set_pass_tokens_max(report.pass_tokens_max);
  out.set_prompt_token_ns(report.prompt_token_cost.count());
  if (report.pass_started != TimePoint::min()) {
    out.set_pass_age_ns((now - report.pass_started).count());
  }
  write_pass(report.pass, *out.mutable_pass());
  write_timed(report.last_prefill_pass, *out.mutable_last_prefill_pass());
  write_timed(report.last_decode_pass, *out.mutable_last_decode_pass());
  write_kv_moves(report, out);
}

LoadReport read(const ps::LoadReport& in, TimePoint now) {
  LoadReport report{.generation = in.generation(),
                    .running = in.running(),
                    .waiting = in.waiting(),
                    .in_inbox = std::min(in.in_inbox(), in.waiting()),
                    .accepted = in.accepted(),
                    .waiting_prefill_tokens =
                        std::min<std::uint64_t>(in.waiting_prefill_tokens(), kReportedTokensMax),
                    .running_prefill_tokens =
                        std::min<std::uint64_t>(in.running_prefill_tokens(), kReportedTokensMax),
                    .kv_blocks_used = in.kv_blocks_used(),
                    .kv_blocks_max = in.kv_blocks_max(),
                    .kv_blocks_active = in.kv_blocks_active(),
                    .kv_blocks_active_max = in.kv_blocks_active_max(),
                    .steps = in.steps(),
                    .prompt_tokens = in.prompt_tokens(),
                    .cached_tokens = in.cached_tokens(),
                    .completion_tokens = in.completion_tokens(),
                    .preemptions = in.preemptions(),
                    .blocks_evicted = in.blocks_evicted(),
                    .sequence_errors = in.sequence_errors(),
                    .pass_tokens_max = std::min(in.pass_tokens_max(), kReportedTokensMax),
                    .prompt_token_cost = Nanos(
                        std::clamp<std::int64_t>(in.prompt_token_ns(), 0, kReportedNanosMax))};
  if (in.has_pass_age_ns()) {
    report.pass_started =
        now - Nanos(std::clamp<std::int64_t>(in.pass_age_ns(), 0, kReportedNanosMax));
  }
  report.pass = read_pass(in.pass());
  report.last_prefill_pass = read_timed(in.last_prefill_pass());
  report.last_decode_pass = read_timed(in.last_decode_pass());
  read_kv_moves(in, report);
  return report;
}

void write(const tiers::LoadCosts& costs, ps::TierCosts& out) {
  out.set_host_ns(costs.host_ns);
  out.set_disk_ns(costs.disk_ns);
  out.set_disk_queue_ns(costs.disk_queue_ns);
  out.set_recompute_ns(costs.recompute_ns);
}

/// What it makes no sense to compute with costs nothing to compute, and for ever to load.
tiers::LoadCosts read(const ps::TierCosts& in) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const auto or_never = [](double ns) { return ns >= 0 ? ns : kNever; };
  return {.host_ns = or_never(in.host_ns()),
          .disk_ns = or_never(in.disk_ns()),
          .disk_queue_ns = or_never(in.disk_queue_ns()),
          .recompute_ns = in.recompute_ns() >= 0
                              ? std::min(in.recompute_ns(), static_cast<double>(kReportedNanosMax))
                              : 0};
}

void write(const tiers::Store::Follower::News& news, ps::TierBlocks& out) {
  out.set_all_anew(news.all_anew);
  for (const tiers::BlockPlace& place : news.places) {
    if (!place.tier) {
      out.add_nowhere(place.key_low);
    } else {
      *place.tier == tiers::Tier::kHost ? out.add_in_host(place.key_low)
                                        : out.add_on_disk(place.key_low);
    }
  }
}

tiers::Store::Follower::News read(const ps::TierBlocks& in) {
  tiers::Store::Follower::News news{.all_anew = in.all_anew(), .places = {}};
  const auto add = [&](const auto& keys, std::optional<tiers::Tier> tier) {
    for (const std::uint64_t key : keys) news.places.push_back({.key_low = key, .tier = tier});
  };
  add(in.nowhere(), std::nullopt);
  add(in.on_disk(), tiers::Tier::kDisk);
  add(in.in_host(), tiers::Tier::kHost);
  return news;
}

void write(const tiers::Stats& stats, ps::TierStats& out) {
  write_each(stats.refused, *out.mutable_refused());
  write_each(stats.missed, *out.mutable_missed());
  write_each(stats.given, *out.mutable_given());
  out.set_asked(stats.asked);
  out.set_host_blocks(stats.host_blocks);
  out.set_host_blocks_max(stats.host_blocks_max);
  out.set_disk_blocks(stats.disk_blocks);
  out.set_disk_bytes(stats.disk_bytes);
  out.set_disk_bytes_max(stats.disk_bytes_max);
  out.set_bytes_written(stats.bytes_written);
  out.set_bytes_read(stats.bytes_read);
  out.set_segments_dropped(stats.segments_dropped);
  out.set_segments_quarantined(stats.segments_quarantined);
  out.set_recovered_blocks(stats.recovered_blocks);
  out.set_load_predicted_s(stats.load_predicted_s);
  out.set_load_taken_s(stats.load_taken_s);
  out.set_reads_paused(stats.reads_paused);
  out.set_writes_paused(stats.writes_paused);
}

tiers::Stats read(const ps::TierStats& in) {
  tiers::Stats stats;
  read_each(in.refused(), stats.refused);
  read_each(in.missed(), stats.missed);
  read_each(in.given(), stats.given);
  stats.asked = in.asked();
  stats.host_blocks = in.host_blocks();
  stats.host_blocks_max = in.host_blocks_max();
  stats.disk_blocks = in.disk_blocks();
  stats.disk_bytes = in.disk_bytes();
  stats.disk_bytes_max = in.disk_bytes_max();
  stats.bytes_written = in.bytes_written();
  stats.bytes_read = in.bytes_read();
  stats.segments_dropped = in.segments_dropped();
  stats.segments_quarantined = in.segments_quarantined();
  stats.recovered_blocks = in.recovered_blocks();
  stats.load_predicted_s = in.load_predicted_s();
  stats.load_taken_s = in.load_taken_s();
  stats.reads_paused = in.reads_paused();
  stats.writes_paused = in.writes_paused();
  return stats;
}

}  // namespace penstock::engine::wire
