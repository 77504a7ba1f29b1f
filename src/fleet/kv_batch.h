#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/prefix_types.h"

namespace penstock::fleet {

/// A stretch of one worker's KV events: what became of its cache from event `first` to event `last`
/// of one life, or all that it held after `last` (a snapshot, parents before children). A value
/// whose memory is kept by clear(). Not thread safe.
class KvBatch final {
 public:
  std::uint64_t epoch = 0;  // the worker's life: a later life has a greater number; 0: not told
  std::uint64_t first = 0;  // events count from 1 in each life, without a gap
  std::uint64_t last = 0;

  void stored(kv::Tier tier, std::optional<std::uint64_t> parent,
              std::span<const kv::StoredBlock> blocks) {
    changes_.push_back({.kind = Kind::kStored,
                        .tier = tier,
                        .parent = parent,
                        .begin = blocks_.size(),
                        .count = blocks.size()});
    blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
  }
  void removed(kv::Tier tier, std::span<const std::uint64_t> aliases) {
    changes_.push_back({.kind = Kind::kRemoved,
                        .tier = tier,
                        .parent = {},
                        .begin = aliases_.size(),
                        .count = aliases.size()});
    aliases_.insert(aliases_.end(), aliases.begin(), aliases.end());
  }
  void cleared() {
    changes_.emplace_back();
    clears_ = true;
  }

  /// Tells `index` of everything, as `slot`'s. Returns how many stores were refused because the
  /// slot does not hold their parent, and were not cleared afterwards.
  template <class Index>
  std::uint32_t apply(Index& index, kv::Slot slot) const {
    std::uint32_t orphans = 0;
    for (const Change& change : changes_) {
      switch (change.kind) {
        case Kind::kStored: {
          const auto blocks = std::span(blocks_).subspan(change.begin, change.count);
          orphans += index.stored(slot, change.tier, change.parent, blocks) ? 0 : 1;
          break;
        }
        case Kind::kRemoved:
          index.removed(slot, change.tier, std::span(aliases_).subspan(change.begin, change.count));
          break;
        case Kind::kCleared:
          index.cleared(slot);
          orphans = 0;
          break;
      }
    }
    return orphans;
  }

  /// Whether what was held before does not matter any more.
  [[nodiscard]] bool clears() const noexcept { return clears_; }
  [[nodiscard]] bool empty() const noexcept { return changes_.empty(); }
  [[nodiscard]] std::size_t blocks() const noexcept { return blocks_.size() + aliases_.size(); }

  /// Nothing, of no life.
  void clear() noexcept {
    epoch = first = last = 0;
    clears_ = false;
    changes_.clear();
    blocks_.clear();
    aliases_.clear();
  }

 private:
  enum class Kind : std::uint8_t { kStored, kRemoved, kCleared };
  struct Change {
    Kind kind = Kind::kCleared;
    kv::Tier tier = kv::Tier::kDevice;
    std::optional<std::uint64_t> parent;
    std::size_t begin = 0;  // of blocks_ or aliases_
    std::size_t count = 0;
  };

  bool clears_ = false;
  std::vector<Change> changes_;
  std::vector<kv::StoredBlock> blocks_;
  std::vector<std::uint64_t> aliases_;
};

}  // namespace penstock::fleet
