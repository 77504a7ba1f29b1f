#include "serve/kv_reader.h"

#include <optional>

namespace penstock::serve {
namespace {

constexpr std::uint64_t kEpoch = 1;  // a reader is of one life of its worker
constexpr std::size_t kEventsMax = 1024;

/// In the index an engine's name for a block has 64 bits; of a 128-bit hash any half will do.
std::uint64_t alias_of(const kv::BlockHash& hash) { return hash.low; }

// What is reusable here is reusable at once, wherever the engine keeps it.
constexpr kv::Tier kTier = kv::Tier::kDevice;

}  // namespace

void KvReader::catch_up(TimePoint now) {
  const std::uint64_t last = source_.last_sequence();
  if (last == follower_.applied().sequence && follower_.trust() == fleet::Trust::kExact) return;
  follower_.announced({.epoch = kEpoch, .sequence = last}, now);
  while (true) {
    const fleet::KvFollower::Want want = follower_.next(now);
    switch (want.kind) {
      case fleet::KvFollower::Want::Kind::kNothing: return;
      case fleet::KvFollower::Want::Kind::kReplay:
        if (!replay(want.from, now)) follower_.replay_unavailable(now);
        break;
      case fleet::KvFollower::Want::Kind::kSnapshot: take_snapshot(now); break;
    }
  }
}

bool KvReader::replay(std::uint64_t from, TimePoint now) {
  events_.clear();
  if (!source_.read(from, kEventsMax, events_) || events_.empty()) return false;
  fill_batch();
  batch_.first = events_.front().sequence;
  batch_.last = events_.back().sequence;
  follower_.replayed({&batch_, 1}, now);
  return true;
}

void KvReader::take_snapshot(TimePoint now) {
  std::uint64_t sequence = 0;
  events_ = source_.snapshot(sequence);
  fill_batch();
  batch_.last = sequence;
  follower_.snapshot(batch_, now);
  events_ = {};  // as much as the worker holds: not kept for the next time
  batch_ = {};
}

/// Blocks that follow each other go in as one store.
void KvReader::fill_batch() {
  batch_.clear();
  batch_.epoch = kEpoch;
  std::optional<std::uint64_t> parent;
  kv::BlockHash last;
  const auto flush = [&] {
    if (!run_.empty()) batch_.stored(kTier, parent, run_);
    run_.clear();
  };
  for (const kv::Event& event : events_) {
    switch (event.kind) {
      case kv::Event::Kind::kStored:
        if (run_.empty() || event.begins_chain || event.parent != last) {
          flush();
          parent = event.begins_chain ? std::nullopt : std::optional(alias_of(event.parent));
        }
        run_.push_back({.alias = alias_of(event.hash), .local = event.local});
        last = event.hash;
        break;
      case kv::Event::Kind::kRemoved: {
        flush();
        const std::uint64_t alias = alias_of(event.hash);
        batch_.removed(kTier, {&alias, 1});
        break;
      }
      case kv::Event::Kind::kCleared:
        flush();
        batch_.cleared();
        break;
    }
  }
  flush();
}

}  // namespace penstock::serve
