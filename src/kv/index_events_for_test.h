#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::kv {

/// Makes events as engines do and as they should not, over a small tree of content in which chains
/// meet and part often. For tests and fuzzing. `Source` yields numbers below a bound: next(bound).
template <class Source>
class IndexEvents {
 public:
  struct Event {
    enum class Kind : std::uint8_t { kStored, kRemoved, kCleared } kind;
    Slot slot;
    Tier tier;
    std::optional<std::uint64_t> parent;
    std::vector<StoredBlock> blocks;
    std::vector<std::uint64_t> aliases;
  };
  /// How slots name blocks: all alike; each its own way; by small numbers that collide between
  /// slots.
  enum class Naming : std::uint8_t { kShared, kOwn, kColliding };

  IndexEvents(Source& source, Slot slots, Naming naming)
      : source_(source), slots_(slots), naming_(naming) {}

  /// A chain of up to `most` blocks. At few places chains may part.
  std::vector<std::uint64_t> chain(std::size_t most) {
    std::vector<std::uint64_t> path(1 + source_.next(most));
    for (std::size_t i = 0; i < path.size(); ++i) {
      const bool parts = i % 7 == 0 || i == 12;
      const std::uint64_t choice = parts ? source_.next(i == 0 ? 3 : 2) : 0;
      // Position-independent: the same hash comes again further down.
      path[i] = 1000 + 10 * (i % 20) + choice;
    }
    return path;
  }

  Event next() {
    Event event{};
    event.slot = static_cast<Slot>(source_.next(slots_));
    event.tier = static_cast<Tier>(source_.next(8) < 6 ? 0 : 1 + source_.next(2));
    const std::uint64_t kind = source_.next(100);
    if (kind == 0) {
      event.kind = Event::Kind::kCleared;
      return event;
    }
    const std::vector<std::uint64_t> path = chain(40);
    std::size_t from = source_.next(3) == 0 ? 0 : source_.next(path.size());
    std::vector<StoredBlock> blocks;
    for (std::size_t i = 0; i < path.size(); ++i)
      blocks.push_back({name(path, i, event.slot), path[i]});
    if (kind < 55) {
      event.kind = Event::Kind::kStored;
      if (from > 0) event.parent = blocks[from - 1].alias;
      event.blocks.assign(blocks.begin() + static_cast<std::ptrdiff_t>(from), blocks.end());
      return event;
    }
    event.kind = Event::Kind::kRemoved;
    for (std::size_t i = from; i < blocks.size(); ++i) event.aliases.push_back(blocks[i].alias);
    const std::uint64_t order = source_.next(8);
    if (order < 5) std::reverse(event.aliases.begin(), event.aliases.end());
    if (order == 7) {
      for (std::size_t i = event.aliases.size(); i > 1; --i) {
        std::swap(event.aliases[i - 1], event.aliases[source_.next(i)]);
      }
      event.aliases.resize(1 + source_.next(event.aliases.size()));
    }
    return event;
  }

  /// From now on slots give other names to what they store, as after a restart that nobody noticed.
  void rename() { ++epoch_; }

 private:
  std::uint64_t name(const std::vector<std::uint64_t>& path, std::size_t at, Slot slot) const {
    std::uint64_t hash = naming_ == Naming::kOwn ? slot + 1 : 0;
    hash += epoch_ << 32;
    std::uint64_t number = 0;  // of the block among all there can be
    for (std::size_t i = 0; i <= at; ++i) {
      hash = (hash ^ path[i]) * 0x9E3779B97F4A7C15;
      hash ^= hash >> 29;
      if (i % 7 == 0 || i == 12) number = number * 3 + (path[i] % 10);
    }
    return naming_ == Naming::kColliding ? number * 41 + at + slot : hash;
  }

  Source& source_;
  const Slot slots_;
  const Naming naming_;
  std::uint64_t epoch_ = 0;
};

/// Applies an event to an index or to the oracle.
template <class Event, class Index>
void apply(const Event& event, Index& index) {
  switch (event.kind) {
    case Event::Kind::kStored:
      index.stored(event.slot, event.tier, event.parent, event.blocks);
      break;
    case Event::Kind::kRemoved: index.removed(event.slot, event.tier, event.aliases); break;
    case Event::Kind::kCleared: index.cleared(event.slot); break;
  }
}

class RandomSource {
 public:
  explicit RandomSource(std::uint64_t seed) : random_(seed) {}
  std::uint64_t next(std::uint64_t bound) { return random_() % bound; }

 private:
  std::mt19937_64 random_;
};

}  // namespace penstock::kv
