#include "engine/remote/internal/watches.h"

#include <algorithm>

namespace penstock::engine {

bool KvWatch::fill(TimePoint, wire::oe::SubscribeKvEventsResponse& response) {
  if (held_.empty()) {
    if (next_ != 0 && source_.last_sequence() < next_) return false;
    events_.clear();
    const bool kept = next_ != 0 && source_.read(next_, kEventsMax, events_);
    if (kept && events_.empty()) return false;
    response.Clear();
    wire::oe::KvEventBatch& batch = *response.mutable_batch();
    if (kept) {
      // A clear would say that what follows in its batch is all that is held: it goes alone.
      const auto clear = std::ranges::find(events_, kv::Event::Kind::kCleared, &kv::Event::kind);
      const auto end = clear == events_.begin() ? clear + 1 : clear;
      add({events_.begin(), end}, batch);
      batch.set_sequence_number(std::prev(end)->sequence);
      next_ = batch.sequence_number() + 1;
      return true;
    }
    std::uint64_t sequence = 0;
    held_ = source_.snapshot(sequence);
    held_sent_ = 0;
    next_ = sequence + 1;
    batch.add_events()->mutable_all_blocks_cleared();
  } else {
    response.Clear();
  }
  wire::oe::KvEventBatch& batch = *response.mutable_batch();
  const std::size_t count = std::min(kEventsMax, held_.size() - held_sent_);
  add(std::span(held_).subspan(held_sent_, count), batch);
  held_sent_ += count;
  batch.set_goes_on(held_sent_ < held_.size());
  batch.set_sequence_number(next_ - 1);
  if (!batch.goes_on()) held_.clear();
  return true;
}

void KvWatch::add(std::span<const kv::Event> events, wire::oe::KvEventBatch& batch) {
  for (const kv::Event& event : events) wire::write(event, *batch.add_events());
}

}  // namespace penstock::engine
