#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "base/rng.h"
#include "fleet/kv_batch.h"
#include "kv/reference_index.h"

namespace penstock::fleet {

/// A worker's cache that comes and goes at random, its events, and what it truly holds. The content
/// of a block is where it stands in a small tree, so that workers share prefixes.
class KvWorkerForTest {
 public:
  KvWorkerForTest(kv::Slot slot, std::uint64_t seed, std::size_t ring)
      : slot_(slot), rng_(seed), ring_(ring) {}

  /// Does something and gives its event.
  const KvBatch& step() {
    KvBatch batch;
    batch.epoch = epoch_;
    batch.first = batch.last = ++last_;
    const std::uint32_t what = rng_.below(100);
    if (what == 0) {
      batch.cleared();
      held_.clear();
    } else if (what < 60 || held_.empty()) {
      store(batch);
    } else {
      remove(batch);
    }
    batch.apply(truth_, slot_);
    log_.push_back(std::move(batch));
    if (log_.size() > ring_) log_.pop_front();
    return log_.back();
  }

  /// Loses everything; names blocks in another way from now on.
  void restart() {
    ++epoch_;
    last_ = 0;
    held_.clear();
    log_.clear();
    truth_.cleared(slot_);
  }

  /// Absent: no longer kept.
  [[nodiscard]] std::optional<std::vector<KvBatch>> replay(std::uint64_t from,
                                                           std::size_t count_max) const {
    std::vector<KvBatch> found;
    if (from <= last_ && (log_.empty() || log_.front().first > from)) return std::nullopt;
    for (const KvBatch& batch : log_) {
      if (batch.first >= from && found.size() < count_max) found.push_back(batch);
    }
    return found;
  }

  [[nodiscard]] KvBatch snapshot() const {
    KvBatch all;
    all.epoch = epoch_;
    all.first = all.last = last_;
    for (const Block& block : held_) {
      const kv::StoredBlock stored{.alias = block.alias, .local = block.path.back()};
      all.stored(kv::Tier::kDevice, parent_of(block.path), std::span(&stored, 1));
    }
    return all;
  }

  [[nodiscard]] std::uint32_t depth(std::span<const std::uint64_t> locals) const {
    return truth_.depth(slot_, locals);
  }
  [[nodiscard]] kv::EventPosition last() const { return {epoch_, last_}; }

  /// A chain that may be held by somebody.
  static std::vector<std::uint64_t> chain(Rng& rng) {
    std::vector<std::uint64_t> path(1 + rng.below(kDeepest));
    for (std::size_t i = 0; i < path.size(); ++i) path[i] = 10 + i * 4 + (i % 3 ? 0 : rng.below(3));
    return path;
  }

 private:
  static constexpr std::uint32_t kDeepest = 10;
  struct Block {
    std::vector<std::uint64_t> path;
    std::uint64_t alias = 0;
  };

  [[nodiscard]] std::uint64_t alias(std::span<const std::uint64_t> path) const {
    std::uint64_t hash = mix64(epoch_);
    for (const std::uint64_t local : path) hash = mix64(hash ^ local);
    return hash;
  }
  [[nodiscard]] std::optional<std::uint64_t> parent_of(std::span<const std::uint64_t> path) const {
    if (path.size() == 1) return std::nullopt;
    return alias(path.first(path.size() - 1));
  }
  [[nodiscard]] bool holds(std::span<const std::uint64_t> path) const {
    const std::uint64_t name = alias(path);
    return std::ranges::find(held_, name, &Block::alias) != held_.end();
  }

  void store(KvBatch& batch) {
    const std::vector<std::uint64_t> path = chain(rng_);
    std::vector<kv::StoredBlock> blocks;
    std::size_t from = 0;
    while (from < path.size() && holds(std::span(path).first(from + 1))) ++from;
    for (std::size_t i = from; i < path.size(); ++i) {
      const auto prefix = std::span(path).first(i + 1);
      held_.push_back({.path = {prefix.begin(), prefix.end()}, .alias = alias(prefix)});
      blocks.push_back({.alias = alias(prefix), .local = path[i]});
    }
    if (blocks.empty()) return;
    batch.stored(kv::Tier::kDevice, parent_of(std::span(path).first(from + 1)), blocks);
  }

  /// A block that nothing held hangs behind.
  void remove(KvBatch& batch) {
    std::vector<std::uint64_t> path = held_[rng_.below(size())].path;
    for (bool leaf = false; !leaf;) {
      leaf = true;
      for (const Block& block : held_) {
        if (block.path.size() == path.size() + 1 &&
            std::equal(path.begin(), path.end(), block.path.begin())) {
          path = block.path;
          leaf = false;
          break;
        }
      }
    }
    const std::uint64_t name = alias(path);
    std::erase_if(held_, [&](const Block& block) { return block.alias == name; });
    batch.removed(kv::Tier::kDevice, std::span(&name, 1));
  }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(held_.size()); }

  const kv::Slot slot_;
  Rng rng_;
  const std::size_t ring_;
  std::uint64_t epoch_ = 1;
  std::uint64_t last_ = 0;
  std::vector<Block> held_;  // parents before children
  std::deque<KvBatch> log_;
  kv::ReferenceIndex truth_;
};

}  // namespace penstock::fleet
