#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/simulated/block_pool.h"
#include "kv/prefix_types.h"
#include "sim/content.h"

namespace penstock::sim {

/// What one worker told of its cache in one pass, to be applied somewhere else.
class KvBatch final {
 public:
  void stored(const engine::simulated::StoredRun& run) {
    Change change{.stored = true,
                  .has_parent = run.first_block > 0,
                  .parent = 0,
                  .begin = begin(),
                  .count = static_cast<std::uint32_t>(run.keys.size())};
    if (change.has_parent) change.parent = content_hash(run.parent);
    for (const kv::BlockHash& key : run.keys) hashes_.push_back(content_hash(key));
    changes_.push_back(change);
  }
  void removed(std::span<const kv::BlockHash> keys) {
    changes_.push_back({.stored = false,
                        .has_parent = false,
                        .parent = 0,
                        .begin = begin(),
                        .count = static_cast<std::uint32_t>(keys.size())});
    for (const kv::BlockHash& key : keys) hashes_.push_back(content_hash(key));
  }

  /// `scratch` is overwritten.
  template <class Index>
  void apply(Index& index, kv::Slot slot, std::vector<kv::StoredBlock>& scratch) const {
    for (const Change& change : changes_) {
      const auto hashes = std::span(hashes_).subspan(change.begin, change.count);
      if (!change.stored) {
        index.removed(slot, kv::Tier::kDevice, hashes);
        continue;
      }
      scratch.clear();
      for (const std::uint64_t hash : hashes) scratch.push_back({.alias = hash, .local = hash});
      index.stored(slot, kv::Tier::kDevice,
                   change.has_parent ? std::optional(change.parent) : std::nullopt, scratch);
    }
  }

  void clear() {
    changes_.clear();
    hashes_.clear();
  }
  [[nodiscard]] bool empty() const noexcept { return changes_.empty(); }

 private:
  struct Change {
    bool stored;
    bool has_parent;
    std::uint64_t parent;
    std::uint32_t begin;
    std::uint32_t count;
  };

  [[nodiscard]] std::uint32_t begin() const noexcept {
    return static_cast<std::uint32_t>(hashes_.size());
  }

  std::vector<Change> changes_;
  std::vector<std::uint64_t> hashes_;
};

/// Listens to a worker's pool.
class KvFeed final : public engine::simulated::PoolListener {
 public:
  void stored(const engine::simulated::StoredRun& run) override { batch.stored(run); }
  void removed(std::span<const kv::BlockHash> keys) override { batch.removed(keys); }

  KvBatch batch;  // since it was last taken
};

}  // namespace penstock::sim
