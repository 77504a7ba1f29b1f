#include "cli/load/statistics.h"

namespace penstock::cli::load {

std::optional<Nanos> time_per_output_token(const RequestRecord& request) {
  if (!request.has_first() || request.output_tokens() < 2) return std::nullopt;
  return (request.last - request.first) / static_cast<Nanos::rep>(request.output_tokens() - 1);
}

void Statistics::on_send(TimePoint intended, TimePoint sent, bool waited) {
  if (!window_.measures(intended)) return;
  send_lag.record(sent - intended);
  if (waited) {
    ++waited_for_slot;
  } else if (sent - intended > kLateSend) {
    ++late_sends;
  }
}

void Statistics::on_gap(TimePoint intended, Nanos gap) {
  if (window_.measures(intended)) itl.record(gap);
}

bool Statistics::is_good(const RequestRecord& request) const {
  if (request.outcome != Outcome::kOk) return false;
  // Without a stream the first token is seen with the last.
  const TimePoint first = request.has_first() ? request.first : request.end;
  if (slo_.ttft > Nanos::zero() && first - request.intended > slo_.ttft) return false;
  const std::optional<Nanos> tpot_of_it = time_per_output_token(request);
  return slo_.itl == Nanos::zero() || !tpot_of_it || *tpot_of_it <= slo_.itl;
}

void Statistics::count_tokens(const RequestRecord& request) {
  const bool streamed = request.events > 0;
  if (streamed) {
    output_tokens_in_window += static_cast<double>(request.output_tokens()) *
                               static_cast<double>(request.events_in_window) /
                               static_cast<double>(request.events);
  } else if (in_window(request.end)) {
    output_tokens_in_window += static_cast<double>(request.output_tokens());
  }
  const TimePoint prefilled = request.has_first() ? request.first : request.end;
  if (request.usage && in_window(prefilled))
    prompt_tokens_in_window += request.usage->prompt_tokens;
}

void Statistics::on_end(const RequestRecord& request) {
  const bool ok = request.outcome == Outcome::kOk;
  const bool failed = !ok && request.outcome != Outcome::kUnfinished;
  const auto kind = static_cast<std::size_t>(request.outcome);
  const bool within_slo = is_good(request);
  count_tokens(request);
  if (ok && in_window(request.end)) {
    ++requests_in_window;
    good_in_window += within_slo ? 1 : 0;
  }
  if (sample_messages[kind].empty()) sample_messages[kind] = request.message;
  if (!window_.measures(request.intended)) {
    failed_in_warm_up += failed ? 1 : 0;
    return;
  }
  ++ended[kind];
  if (request.outcome == Outcome::kStatus &&
      (failed_by_status.size() < kStatusesMax || failed_by_status.contains(request.status))) {
    ++failed_by_status[request.status];
  }
  if (!ok) return;
  good += within_slo ? 1 : 0;
  end_to_end.record(request.end - request.intended);
  if (request.has_first()) ttft.record(request.first - request.intended);
  if (const std::optional<Nanos> time = time_per_output_token(request)) tpot.record(*time);
  output_tokens += request.output_tokens();
  if (!request.usage) return;
  ++with_usage;
  prompt_tokens += request.usage->prompt_tokens;
  cached_tokens += request.usage->cached_tokens;
}

void Statistics::merge(const Statistics& other) {
  for (std::size_t i = 0; i < kOutcomes; ++i) {
    ended[i] += other.ended[i];
    if (sample_messages[i].empty()) sample_messages[i] = other.sample_messages[i];
  }
  for (const auto& [status, count] : other.failed_by_status) failed_by_status[status] += count;
  ttft.merge(other.ttft);
  itl.merge(other.itl);
  tpot.merge(other.tpot);
  end_to_end.merge(other.end_to_end);
  good += other.good;
  prompt_tokens += other.prompt_tokens;
  cached_tokens += other.cached_tokens;
  output_tokens += other.output_tokens;
  with_usage += other.with_usage;
  send_lag.merge(other.send_lag);
  late_sends += other.late_sends;
  waited_for_slot += other.waited_for_slot;
  requests_in_window += other.requests_in_window;
  good_in_window += other.good_in_window;
  output_tokens_in_window += other.output_tokens_in_window;
  prompt_tokens_in_window += other.prompt_tokens_in_window;
  failed_in_warm_up += other.failed_in_warm_up;
}

}  // namespace penstock::cli::load
