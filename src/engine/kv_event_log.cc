#include "engine/kv_event_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace penstock::engine {

kv::Event* KvEventLog::find(std::uint64_t sequence) noexcept {
  const std::uint64_t at = sequence - (last_sequence() + 1 - events_.size());  // may wrap
  return at < events_.size() ? &events_[at] : nullptr;
}

void KvEventLog::append(kv::Event event) {
  const std::uint64_t sequence = last_sequence() + 1;
  event.sequence = sequence;
  events_.push_back(std::move(event));
  if (events_.size() > events_max_) events_.pop_front();
  reach(sequence);
}

/// All up to this event can be read.
void KvEventLog::reach(std::uint64_t sequence) noexcept {
  last_sequence_.store(sequence, std::memory_order_release);
  if (change_ != nullptr) change_->set();
}

void KvEventLog::stored(kv::Event block) {
  const std::lock_guard lock(mutex_);
  block.kind = kv::Event::Kind::kStored;
  block.sequence = last_sequence() + 1;
  if (!keeps_tokens_) block.tokens = {};
  kv::Event told = {.kind = block.kind,
                    .hash = block.hash,
                    .parent = block.parent,
                    .begins_chain = block.begins_chain,
                    .local = block.local,
                    .tokens = {}};
  const bool is_new = held_.try_emplace(block.hash, std::move(block)).second;
  if (!is_new) told.tokens = held_.at(told.hash).tokens;  // held is the first that was told
  append(std::move(told));
}

/// What only a held block had becomes the event's own, if that is still kept.
void KvEventLog::forget(kv::Event& block) {
  kv::Event* told = find(block.sequence);
  if (told != nullptr && told->hash == block.hash) told->tokens = std::move(block.tokens);
}

void KvEventLog::removed(const kv::BlockHash& hash) {
  const std::lock_guard lock(mutex_);
  const auto found = held_.find(hash);
  if (found == held_.end()) return;
  forget(found->second);
  held_.erase(found);
  append({.kind = kv::Event::Kind::kRemoved, .hash = hash, .tokens = {}});
}

void KvEventLog::cleared() {
  const std::lock_guard lock(mutex_);
  for (auto& [hash, block] : held_) forget(block);
  held_.clear();
  append({.kind = kv::Event::Kind::kCleared, .tokens = {}});
}

void KvEventLog::reset(std::uint64_t sequence, std::span<const kv::Event> held) {
  const std::lock_guard lock(mutex_);
  events_.clear();
  held_.clear();
  // Only the order counts: parents before children, and all before what comes.
  std::uint64_t order = sequence - std::min<std::uint64_t>(sequence, held.size());
  for (const kv::Event& block : held) {
    kv::Event& kept = held_.insert_or_assign(block.hash, block).first->second;
    kept.sequence = order++;
    if (!keeps_tokens_) kept.tokens = {};
  }
  reach(sequence);
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
  for (std::size_t i = 0; i < count; ++i) {
    const kv::Event& event = events_[first + i];
    out.push_back(event);
    if (event.kind != kv::Event::Kind::kStored || !event.tokens.empty()) continue;
    const auto held = held_.find(event.hash);
    if (held != held_.end()) out.back().tokens = held->second.tokens;
  }
  return {};
}

std::vector<kv::Event> KvEventLog::snapshot(std::uint64_t& sequence) const {
  const std::lock_guard lock(mutex_);
  sequence = last_sequence();
  std::vector<kv::Event> events;
  events.reserve(held_.size());
  for (const auto& [hash, block] : held_) events.push_back(block);
  std::ranges::sort(events, {}, &kv::Event::sequence);  // parents were stored before their children
  for (kv::Event& event : events) event.sequence = sequence;
  return events;
}

}  // namespace penstock::engine
