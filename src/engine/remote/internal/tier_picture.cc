#include "engine/remote/internal/tier_picture.h"

#include <algorithm>
#include <vector>

namespace penstock::engine {

bool TierPicture::take(const tiers::Store::Follower::News& news) {
  const std::lock_guard lock(mutex_);
  if (news.all_anew) tier_of_.clear();
  for (const tiers::BlockPlace& place : news.places) {
    if (place.tier) {
      tier_of_[place.key_low] = *place.tier;
    } else {
      tier_of_.erase(place.key_low);
    }
    if (tier_of_.size() <= blocks_max_) continue;
    tier_of_ = {};
    return false;
  }
  return true;
}

void TierPicture::take(const tiers::LoadCosts& costs) {
  const std::lock_guard lock(mutex_);
  costs_ = costs;
}

tiers::LoadChoice TierPicture::foresee(std::span<const tiers::Key> keys, std::size_t have) const {
  const std::lock_guard lock(mutex_);
  std::vector<tiers::Tier> tiers;
  for (const tiers::Key& key : keys.subspan(std::min(have, keys.size()))) {
    const auto found = tier_of_.find(key.low);
    if (found == tier_of_.end()) break;
    tiers.push_back(found->second);
  }
  return tiers::choose_load(tiers, costs_);
}

tiers::LoadCosts TierPicture::costs() const {
  const std::lock_guard lock(mutex_);
  return costs_;
}

std::uint64_t TierPicture::blocks() const {
  const std::lock_guard lock(mutex_);
  return tier_of_.size();
}

}  // namespace penstock::engine
