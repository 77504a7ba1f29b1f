#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/simulated/block_pool.h"
#include "fleet/kv_batch.h"
#include "sim/content.h"
#include "sim/internal/tier_model.h"

namespace penstock::sim {

/// What a worker can say again of its cache: its last batches, and all that it holds.
class KvMemory final {
 public:
  static constexpr std::size_t kBatchesMax = 64;

  void stored(std::optional<std::uint64_t> parent, std::span<const kv::StoredBlock> blocks) {
    for (const kv::StoredBlock& block : blocks) {
      held_[block.alias] = {.parent = parent, .order = order_++};
      parent = block.alias;
    }
  }
  void removed(std::uint64_t hash) { held_.erase(hash); }
  void append(const fleet::KvBatch& batch) {
    batches_.push_back(batch);
    if (batches_.size() > kBatchesMax) batches_.pop_front();
  }
  /// The worker begins anew.
  void clear() {
    held_.clear();
    batches_.clear();
  }

  /// From event `from` on; absent when that is no longer kept.
  [[nodiscard]] std::optional<std::vector<fleet::KvBatch>> replay(std::uint64_t from) const {
    if (batches_.empty() || batches_.front().first > from) return std::nullopt;
    std::vector<fleet::KvBatch> found;
    for (const fleet::KvBatch& batch : batches_) {
      if (batch.first >= from) found.push_back(batch);
    }
    return found;
  }
  [[nodiscard]] fleet::KvBatch snapshot() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> by_order;  // and hash
    for (const auto& [hash, block] : held_) by_order.emplace_back(block.order, hash);
    std::ranges::sort(by_order);
    fleet::KvBatch all;
    for (const auto& [order, hash] : by_order) {
      const kv::StoredBlock block{.alias = hash, .local = hash};
      all.stored(kv::Tier::kDevice, held_.at(hash).parent, std::span(&block, 1));
    }
    return all;
  }
  /// How many leading blocks of a prompt are held: what an index should say.
  [[nodiscard]] std::uint32_t depth(std::span<const std::uint64_t> locals) const {
    const auto missing =
        std::ranges::find_if(locals, [&](std::uint64_t hash) { return !held_.contains(hash); });
    return static_cast<std::uint32_t>(missing - locals.begin());
  }
  [[nodiscard]] std::size_t blocks() const noexcept { return held_.size(); }

 private:
  struct Block {
    std::optional<std::uint64_t> parent;
    std::uint64_t order = 0;  // parents have smaller ones
  };
  std::unordered_map<std::uint64_t, Block> held_;
  std::uint64_t order_ = 0;
  std::deque<fleet::KvBatch> batches_;
};

/// Listens to a worker's pool.
class KvFeed final : public engine::simulated::PoolListener {
 public:
  void stored(const engine::simulated::StoredRun& run) override {
    blocks_.clear();
    for (const kv::BlockHash& key : run.keys) {
      const std::uint64_t hash = content_hash(key);
      blocks_.push_back({.alias = hash, .local = hash});
    }
    std::optional<std::uint64_t> parent;
    if (run.first_block > 0) parent = content_hash(run.parent);
    batch.stored(kv::Tier::kDevice, parent, blocks_);
    if (memory != nullptr) memory->stored(parent, blocks_);
    for (const kv::BlockHash& key : run.keys) {
      if (tiers != nullptr) tiers->computed(key);
    }
  }
  void removed(std::span<const kv::BlockHash> keys) override {
    hashes_.clear();
    for (const kv::BlockHash& key : keys) {
      hashes_.push_back(content_hash(key));
      if (memory != nullptr) memory->removed(hashes_.back());
      if (tiers != nullptr) tiers->evicted(key);
    }
    batch.removed(kv::Tier::kDevice, hashes_);
  }

  fleet::KvBatch batch;              // since it was last taken
  std::unique_ptr<KvMemory> memory;  // null: nothing needs to be said twice
  std::unique_ptr<TierModel> tiers;  // null: there is nothing behind the pool

 private:
  std::vector<kv::StoredBlock> blocks_;
  std::vector<std::uint64_t> hashes_;
};

}  // namespace penstock::sim
