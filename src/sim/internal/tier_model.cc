#include "sim/internal/tier_model.h"

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "tiers/admission.h"

namespace penstock::sim {
namespace {

using tiers::Tier;

// As the store cuts a disk: at least two segments, about a thousand at most.
constexpr std::size_t kSegmentBlocksMin = 8;
constexpr std::size_t kSegmentsMax = 1024;

std::size_t segment_blocks_for(std::size_t disk_blocks) {
  return std::max(kSegmentBlocksMin, disk_blocks / kSegmentsMax);
}

/// As evenly spread as a digest.
tiers::Key key_of(const kv::BlockHash& hash) noexcept {
  return {mix64(hash.low), mix64(~hash.low + hash.high)};
}

}  // namespace

TierModel::TierModel(const Options& options)
    : options_(options),
      segment_blocks_(segment_blocks_for(options.disk_blocks)),
      segments_max_(options.disk_blocks / segment_blocks_),
      sketch_(std::uint64_t{options.host_blocks} + options.disk_blocks) {}

std::vector<Tier> TierModel::leading(std::span<const kv::BlockHash> keys) const {
  std::vector<Tier> tiers;
  for (const kv::BlockHash& key : keys) {
    const auto found = blocks_.find(key);
    if (found == blocks_.end()) break;
    tiers.push_back(found->second.in_host ? Tier::kHost : Tier::kDisk);
  }
  return tiers;
}

tiers::LoadChoice TierModel::choose(std::span<const Tier> tiers, Nanos now) const {
  const Nanos queue = std::max(Nanos::zero(), disk_free_at_ - now);
  return choose_load(tiers, {.host_ns = options_.host_block_ns,
                             .disk_ns = options_.disk_block_ns,
                             .disk_queue_ns = static_cast<double>(queue.count()),
                             .recompute_ns = options_.recompute_block_ns});
}

tiers::LoadChoice TierModel::foresee(std::span<const kv::BlockHash> chain, std::size_t have,
                                     Nanos now) const {
  return choose(leading(chain.subspan(std::min(have, chain.size()))), now);
}

tiers::LoadChoice TierModel::load(std::span<const kv::BlockHash> chain, std::size_t have,
                                  Nanos now) {
  for (const kv::BlockHash& key : chain) sketch_.add(key_of(key));
  const tiers::LoadChoice choice = foresee(chain, have, now);
  std::uint32_t read = 0;
  for (const kv::BlockHash& key : chain.subspan(std::min(have, chain.size()), choice.blocks)) {
    Block& block = blocks_[key];
    if (block.in_host) {
      lru_.splice(lru_.end(), lru_, block.place);
    } else {
      ++read;
    }
  }
  for (const kv::BlockHash& key : chain.subspan(std::min(have, chain.size()), choice.blocks)) {
    hold(key, blocks_[key]);
  }
  counts_.from_host += choice.blocks - read;
  counts_.from_disk += read;
  if (read > 0) {
    disk_free_at_ =
        std::max(disk_free_at_, now) + Nanos(std::llround(read * options_.disk_block_ns));
  }
  return choice;
}

void TierModel::computed(const kv::BlockHash& key) {
  const auto found = blocks_.find(key);
  if (found != blocks_.end()) {
    if (found->second.in_host) lru_.splice(lru_.end(), lru_, found->second.place);
  } else if (wanted_on_disk(key)) {
    write(key, blocks_[key]);
  }
}

void TierModel::evicted(const kv::BlockHash& key) {
  if (options_.host_blocks > 0) hold(key, blocks_[key]);
}

/// Brings it into host memory, or to its warm end.
void TierModel::hold(const kv::BlockHash& key, Block& block) {
  if (block.in_host) {
    lru_.splice(lru_.end(), lru_, block.place);
    return;
  }
  if (options_.host_blocks == 0) return;
  block.in_host = true;  // so that it stays whatever goes
  make_room_in_host();
  block.place = lru_.insert(lru_.end(), key);
}

/// The coldest goes, by way of the disk if it is wanted there.
void TierModel::make_room_in_host() {
  if (lru_.size() < options_.host_blocks) return;
  const kv::BlockHash coldest = lru_.front();
  lru_.pop_front();
  Block& block = blocks_[coldest];
  block.in_host = false;
  if (block.segment == kNowhere && wanted_on_disk(coldest)) write(coldest, block);
  if (block.segment == kNowhere) blocks_.erase(coldest);
}

double TierModel::value(const kv::BlockHash& key) const noexcept {
  return tiers::kept_value(options_.recompute_block_ns, sketch_.estimate(key_of(key)));
}

bool TierModel::wanted_on_disk(const kv::BlockHash& key) {
  if (segments_max_ == 0) return false;
  const bool full =
      segments_.size() == segments_max_ && segments_.back().blocks.size() == segment_blocks_;
  const auto refused = tiers::refusal({.recompute_ns = options_.recompute_block_ns,
                                       .read_ns = options_.disk_block_ns,
                                       .asked = sketch_.estimate(key_of(key)),
                                       .full = full,
                                       .oldest_value = oldest_value_});
  if (refused == tiers::Reason::kCold && ++cold_refusals_ % tiers::kRefusalsAnUpdate == 0) {
    value_oldest();
  }
  return !refused;
}

/// `block` is in blocks_ already, and stays there though others go.
void TierModel::write(const kv::BlockHash& key, Block& block) {
  if (segments_.empty() || segments_.back().blocks.size() == segment_blocks_) {
    if (segments_.size() == segments_max_) drop_oldest();
    segments_.push_back({.number = next_segment_++, .blocks = {}});
    value_oldest();
  }
  segments_.back().blocks.push_back(key);
  block.segment = segments_.back().number;
  ++disk_blocks_;
  ++counts_.written;
}

void TierModel::drop_oldest() {
  const Segment oldest = std::move(segments_.front());
  segments_.pop_front();
  for (const kv::BlockHash& key : oldest.blocks) {
    const auto found = blocks_.find(key);
    if (found == blocks_.end() || found->second.segment != oldest.number) continue;
    found->second.segment = kNowhere;
    --disk_blocks_;
    if (!found->second.in_host) blocks_.erase(found);
  }
}

void TierModel::value_oldest() {
  oldest_value_ = 0;
  if (segments_.empty()) return;
  const Segment& oldest = segments_.front();
  for (const kv::BlockHash& key : oldest.blocks) oldest_value_ += value(key);
  if (!oldest.blocks.empty()) oldest_value_ /= static_cast<double>(oldest.blocks.size());
}

}  // namespace penstock::sim
