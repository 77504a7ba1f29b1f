#include "engine/kv_event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace penstock::engine {

void KvEventLog::append(kv::Event event) {
  const std::uint64_t sequence = last_sequence() + 1;
  event.sequence = sequence;
  events_.push_back(std::move(event));
  if (events_.size() > events_max_) events_.pop_front();
  last_sequence_.store(sequence, std::memory_order_release);
}

void KvEventLog::stored(kv::Event block) {
  const std::lock_guard lock(mutex_);
  block.kind = kv::Event::Kind::kStored;
  held_.push_back(block);
  held_by_hash_[block.hash] = std::prev(held_.end());
  append(std::move(block));
}

void KvEventLog::removed(const kv::BlockHash& hash) {
  const std::lock_guard lock(mutex_);
  const auto found = held_by_hash_.find(hash);
  if (found == held_by_hash_.end()) return;
  held_.erase(found->second);
  held_by_hash_.erase(found);
  append({.kind = kv::Event::Kind::kRemoved, .hash = hash});
}

void KvEventLog::cleared() {
  const std::lock_guard lock(mutex_);
  held_.clear();
  held_by_hash_.clear();
  append({.kind = kv::Event::Kind::kCleared});
}

Result<void> KvEventLog::read(std::uint64_t from, std::size_t count_max,
                              std::vector<kv::Event>& out) const {
  const std::lock_guard lock(mutex_);
  const std::uint64_t oldest = last_sequence() + 1 - events_.size();
  if (from < oldest) {
    return fail(Code::kNotFound, fmt::format("events from {} on are no longer kept (the oldest is "
                                             "{}); read a snapshot",
                                             from, oldest));
  }
  const std::uint64_t first = std::min<std::uint64_t>(from - oldest, events_.size());
  const std::size_t count = std::min<std::size_t>(count_max, events_.size() - first);
  for (std::size_t i = 0; i < count; ++i) out.push_back(events_[first + i]);
  return {};
}

std::vector<kv::Event> KvEventLog::snapshot(std::uint64_t& sequence) const {
  const std::lock_guard lock(mutex_);
  sequence = last_sequence();
  std::vector<kv::Event> events(held_.begin(), held_.end());
  for (kv::Event& event : events) event.sequence = sequence;
  return events;
}

}  // namespace penstock::engine
