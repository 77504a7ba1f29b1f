#include "router/outlook.h"

#include <algorithm>
#include <cmath>

namespace penstock::router {
namespace {

constexpr double kPassTokensDefault = 8192;

/// Before the one in which it ends. Tokens are whole numbers.
double full_passes(double tokens, double pass_tokens) noexcept {
  return std::max(0.0, std::floor((tokens - 1) / pass_tokens));
}

}  // namespace

void Outlook::refresh(const fleet::FleetView& fleet, Slot slot, double stream_ms, double steps) {
  const fleet::WorkerReport& report = fleet.reports[slot];
  revision_ = fleet.revision[slot];
  stream_ms_ = stream_ms;
  steps_ = steps;
  cost_ = fleet.cost[slot];
  pass_tokens_ = cost_.pass_tokens_max > 0 ? cost_.pass_tokens_max : kPassTokensDefault;
  capacity_ =
      report.kv_blocks_max > 0 ? report.kv_blocks_max : std::numeric_limits<double>::infinity();
  block_ms_ = report.kv_blocks_used > 0 ? stream_ms / report.kv_blocks_used : 0;
  places_ = report.running_max > 0 ? report.running_max : std::numeric_limits<double>::infinity();
  place_ms_ = stream_ms / places_;
  decode_ms_ = step_ms(report.kv_blocks_used);
  free_at_ = TimePoint::min();
  if (report.pass_started != TimePoint::min()) {
    const double took_ms = cost_.prefill_ms(report.pass.prefill_tokens) +
                           (report.pass.decodes ? cost_.decode_ms(report.pass.kv_use) : 0);
    free_at_ = report.pass_started + Nanos(std::llround(std::max(0.0, took_ms) * 1e6));
  }
  start(fleet, slot);
}

void Outlook::start(const fleet::FleetView& fleet, Slot slot) {
  const fleet::WorkerReport& report = fleet.reports[slot];
  tail_ = {.blocks = static_cast<double>(report.kv_blocks_used)};
  std::uint32_t whole = fleet.queues->size(slot);  // of the queue's end, not begun
  if (report.generation > 0) {
    const bool partial = report.running_prefill_tokens_left > 0;
    tail_.decoding = std::max(0.0, report.running - (partial ? 1.0 : 0.0));
    tail_.requests = tail_.decoding;
    whole = std::min(whole, report.waiting + fleet.unseen[slot]);
    if (partial) {
      feed(tail_, {.tokens = static_cast<double>(report.running_prefill_tokens_left)});
    }
  } else {
    tail_.decoding = fleet.requests[slot] - fleet.prefills[slot];
  }
  fleet.queues->for_last(slot, whole, [&](const fleet::QueuedPrefill& prompt) {
    feed(tail_, {.tokens = static_cast<double>(prompt.uncached_tokens),
                 .blocks = static_cast<double>(prompt.new_blocks)});
  });
  queued_ = whole;
  // What ends in passes that are full by now cannot change any more.
  tail_.waited_ms = tail_.stalled_ms = tail_.work_ms = tail_.home_ms = tail_.steps_ms = 0;
}

Glance Outlook::glance() const noexcept {
  const bool grows = cost_.prefill_base_ms >= 0 && cost_.prefill_token2_ms >= 0;
  return {.free_at = free_at_,
          .start_ms = tail_.start_ms,
          .token_ms = grows ? std::max(0.0, cost_.prefill_token_ms) : 0,  // a fit may be odd
          .step_ms = step_ms(tail_.blocks)};
}

void Outlook::feed(Tail& tail, const Item& item) const noexcept {
  double tokens = item.tokens;
  tail.home_ms += home_ms(tail.blocks, item.cold);
  tail.steps_ms += steps_ms(item, tail.requests, tail.blocks);
  tail.work_ms += work_ms(item, tail.blocks);
  tail.blocks += item.blocks;
  ++tail.requests;
  // It waits at the head of the queue. (For a load others go on, but loads have a queue as well.)
  const double ready = std::max(ready_ms(tail.requests, tail.blocks), item.load_ms);
  if (tail.start_ms < ready) {
    if (tail.tokens > 0) close(tail);
    tail.start_ms = std::max(tail.start_ms, ready);
  }
  if (tokens > room(tail)) {
    const double part = std::max(0.0, room(tail));
    tail.tokens += part;
    tokens -= part;
    close(tail);
    // Passes that it fills alone are alike, and a worker may say that it has ever so many.
    const double pass_tokens = room(tail);
    if (const double passes = full_passes(tokens, pass_tokens); passes > 0) {
      tail.tokens = pass_tokens;
      tokens -= passes * pass_tokens;
      close(tail, passes);
    }
  }
  tail.tokens += tokens;
  ++tail.ending;
}

/// The pass that is being filled, and as many more like it; prompts end in the only one.
void Outlook::close(Tail& tail, double passes) const noexcept {
  const double prefill_ms = cost_.prefill_ms(tail.tokens);
  const bool decodes = tail.decoding + tail.ending > 0;
  tail.start_ms += passes * (prefill_ms + (decodes ? decode_ms_ : 0));
  tail.waited_ms += tail.ending * tail.start_ms;
  tail.stalled_ms += passes * prefill_ms * tail.decoding;
  tail.decoding += tail.ending;
  tail.ending = tail.tokens = 0;
}

double Outlook::home_ms(double blocks, double cold) const noexcept {
  constexpr double kFullest = 0.95;  // beyond, all are alike
  const auto waiting = [&](double in_use) {
    const double use = std::min(kFullest, in_use / capacity_);
    return use * use / (1 - use);
  };
  return cold > 0 ? stream_ms_ * (waiting(blocks + cold) - waiting(blocks)) : 0;
}

double Outlook::work_ms(const Item& item, double others) const noexcept {
  const double tokens_ms = cost_.prefill_token_ms * item.tokens;
  if (others + item.blocks < kFull * capacity_) return tokens_ms;
  const double stay = steps_ > 0 ? steps(item) / steps_ : 1;
  return tokens_ms + item.blocks / capacity_ * stream_ms_ * stay;
}

double Outlook::steps_ms(const Item& item, double answers, double others) const noexcept {
  const double now_ms = step_ms(others);
  const double then_ms = std::max(now_ms, step_ms(others + item.blocks));  // a fit may be odd
  // Others that run are at their middle, on average.
  return steps(item) * (then_ms + answers / 2 * (then_ms - now_ms));
}

double Outlook::cost(std::span<const Item> plan, double rest_ms, const Prices& prices,
                     const Item* with, std::uint32_t without) const noexcept {
  Tail tail = tail_;
  tail.start_ms += rest_ms;
  for (const Item& item : plan) {
    if (item.question == without) continue;
    if (with != nullptr && with->tokens < item.tokens) {
      feed(tail, *with);
      with = nullptr;
    }
    feed(tail, item);
  }
  if (with != nullptr) feed(tail, *with);
  if (tail.tokens > 0 || tail.ending > 0) close(tail);
  return tail.waited_ms + prices.stream * tail.stalled_ms + prices.steps() * tail.steps_ms +
         prices.work * tail.work_ms + prices.home * tail.home_ms;
}

/// What feed() and close() would give, with the full passes in between counted at once.
Added Outlook::added(const Item& item, double rest_ms) const noexcept {
  const double streams = tail_.decoding + tail_.ending;  // once the pass being filled is over
  const double step_ms_each = streams > 0 ? decode_ms_ : 0;
  const double before_ms = cost_.prefill_ms(tail_.tokens);
  const double blocks = tail_.blocks + item.blocks;
  const double ready = std::max(ready_ms(tail_.requests + 1, blocks), item.load_ms);
  const double space = std::max(0.0, room(tail_));
  double start_ms = rest_ms + tail_.start_ms;
  Added added{.work_ms = work_ms(item, tail_.blocks),
              .home_ms = home_ms(tail_.blocks, item.cold),
              .steps_ms = steps_ms(item, tail_.requests, tail_.blocks)};
  double left = item.tokens;
  if (start_ms < ready) {
    if (tail_.tokens > 0) start_ms += before_ms + step_ms_each;
    start_ms = std::max(start_ms, ready);
  } else {
    const double taken = std::min(left, space);
    const double with_ms = cost_.prefill_ms(tail_.tokens + taken);
    added.waiting_ms = tail_.ending * (with_ms - before_ms);
    added.stalled_ms = tail_.decoding * (with_ms - before_ms);
    if (left <= space) {
      added.first_token_ms = start_ms + with_ms + decode_ms_;
      return added;
    }
    left -= taken;
    start_ms += with_ms + step_ms_each;
  }
  const double pass_tokens = std::max(1.0, pass_tokens_ - streams);
  const double passes = full_passes(left, pass_tokens);
  const double full_ms = cost_.prefill_ms(pass_tokens);
  const double last_ms = cost_.prefill_ms(left - passes * pass_tokens);
  added.stalled_ms += streams * (passes * full_ms + last_ms);
  added.first_token_ms = start_ms + passes * (full_ms + step_ms_each) + last_ms + decode_ms_;
  return added;
}

}  // namespace penstock::router
