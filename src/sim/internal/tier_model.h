#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "kv/block.h"
#include "tiers/decision.h"
#include "tiers/frequency_sketch.h"

namespace penstock::sim {

/// Host memory and disk behind one modelled worker's pool of blocks, as tiers::Store keeps them:
/// the same rules for what is written, held, dropped and loaded (tiers/admission.h, decision.h,
/// frequency_sketch.h), on names instead of bytes. What the store does on threads of its own
/// happens at once here; reads from disk wait for each other, and nothing waits for writes.
class TierModel final {
 public:
  struct Options {
    std::uint32_t host_blocks = 0;
    std::uint32_t disk_blocks = 0;
    double host_block_ns = 0;  // to have a block from there
    double disk_block_ns = 0;
    double recompute_block_ns = 0;  // instead of that
  };
  struct Counts {
    std::uint64_t from_host = 0;  // blocks loaded
    std::uint64_t from_disk = 0;
    std::uint64_t written = 0;  // to disk, blocks
  };

  explicit TierModel(const Options& options);

  /// tiers::Store::foresee().
  [[nodiscard]] tiers::LoadChoice foresee(std::span<const kv::BlockHash> chain, std::size_t have,
                                          Nanos now) const;
  /// tiers::Store::choose(), and the blocks chosen are fetched: they have come after `load_ns`.
  tiers::LoadChoice load(std::span<const kv::BlockHash> chain, std::size_t have, Nanos now);

  /// The worker has computed the block: it is for the disk.
  void computed(const kv::BlockHash& key);
  /// The worker drops the block: it is for host memory.
  void evicted(const kv::BlockHash& key);

  [[nodiscard]] const Counts& counts() const noexcept { return counts_; }
  [[nodiscard]] std::size_t host_blocks() const noexcept { return lru_.size(); }
  [[nodiscard]] std::size_t disk_blocks() const noexcept { return disk_blocks_; }

 private:
  static constexpr std::uint64_t kNowhere = 0;  // on no disk

  struct Block {
    bool in_host = false;
    std::list<kv::BlockHash>::iterator place;  // in lru_, while in_host
    std::uint64_t segment = kNowhere;
  };
  struct Segment {
    std::uint64_t number = 0;
    std::vector<kv::BlockHash> blocks;  // as written
  };

  [[nodiscard]] std::vector<tiers::Tier> leading(std::span<const kv::BlockHash> keys) const;
  [[nodiscard]] tiers::LoadChoice choose(std::span<const tiers::Tier> tiers, Nanos now) const;
  [[nodiscard]] double value(const kv::BlockHash& key) const noexcept;
  bool wanted_on_disk(const kv::BlockHash& key);
  void write(const kv::BlockHash& key, Block& block);
  void hold(const kv::BlockHash& key, Block& block);
  void make_room_in_host();
  void drop_oldest();
  void value_oldest();

  const Options options_;
  const std::size_t segment_blocks_;
  const std::size_t segments_max_;
  std::unordered_map<kv::BlockHash, Block> blocks_;
  std::list<kv::BlockHash> lru_;  // of host memory, coldest first
  std::deque<Segment> segments_;  // oldest first; the last one is being filled
  std::uint64_t next_segment_ = kNowhere + 1;
  std::size_t disk_blocks_ = 0;
  tiers::FrequencySketch sketch_;
  double oldest_value_ = 0;  // a block of the oldest segment, at the mean
  std::uint64_t cold_refusals_ = 0;
  Nanos disk_free_at_{0};  // what was asked for has been read
  Counts counts_;
};

}  // namespace penstock::sim
