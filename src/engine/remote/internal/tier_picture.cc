#include "engine/remote/internal/tier_picture.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

namespace penstock::engine {

bool TierPicture::take(const tiers::Store::Follower::News& news) {
  constexpr std::size_t kAtOnce = 512;
  if (news.all_anew) clear();
  for (std::span<const tiers::BlockPlace> rest = news.places; !rest.empty();) {
    const std::size_t count = std::min(kAtOnce, rest.size());
    if (!take_some(rest.first(count))) return false;
    rest = rest.subspan(count);
  }
  return true;
}

bool TierPicture::take_some(std::span<const tiers::BlockPlace> places) {
  const std::lock_guard lock(mutex_);
  for (const tiers::BlockPlace& place : places) {
    Table& table = tables_[table_of(place.key_low)];
    if (!place.tier) {
      blocks_ -= table.erase(place.key_low);
    } else if (table.insert_or_assign(place.key_low, *place.tier).second) {
      if (++blocks_ > blocks_max_) return false;
    }
  }
  return true;
}

void TierPicture::clear() {
  auto old = std::make_unique<Tables>();  // ends without the lock
  const std::lock_guard lock(mutex_);
  std::swap(*old, tables_);
  blocks_ = 0;
}

void TierPicture::take(const tiers::LoadCosts& costs) {
  const std::lock_guard lock(mutex_);
  costs_ = costs;
}

tiers::LoadChoice TierPicture::foresee(std::span<const tiers::Key> keys, std::size_t have) const {
  const std::lock_guard lock(mutex_);
  std::vector<tiers::Tier> tiers;
  for (const tiers::Key& key : keys.subspan(std::min(have, keys.size()))) {
    const Table& table = tables_[table_of(key.low)];
    const auto found = table.find(key.low);
    if (found == table.end()) break;
    tiers.push_back(found->second);
  }
  return tiers::choose_load(tiers, costs_);
}

std::uint64_t TierPicture::blocks() const {
  const std::lock_guard lock(mutex_);
  return blocks_;
}

}  // namespace penstock::engine
