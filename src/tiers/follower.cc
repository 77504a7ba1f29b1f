// Where a store's blocks lie, for those who follow it.

#include <algorithm>

#include "tiers/internal/state.h"

namespace penstock::tiers {

bool Store::Follower::read(std::size_t count_max, News& news) {
  const State& s = *state_;
  news.all_anew = false;
  news.places.clear();
  for (;;) {
    const std::lock_guard lock(s.mutex);
    const std::uint64_t kept_from = s.changes - s.changed.size();
    if (!next_ || *next_ < kept_from) {
      next_ = s.changes;  // what changes while all is listed is read after it
      lists_ = news.all_anew = true;
      bucket_ = buckets_ = 0;
    }
    if (lists_) {
      list(count_max, news);
      if (news.places.empty() && lists_) continue;  // let others have the lock
    } else {
      for (; *next_ < s.changes && news.places.size() < count_max; ++*next_) {
        const Key& key = s.changed[*next_ - kept_from];
        news.places.push_back({.key_low = key.low, .tier = s.tier_of(key)});
      }
    }
    return news.all_anew || !news.places.empty();
  }
}

/// Under the lock. An index that has grown since is listed from its beginning again: what is told
/// twice does no harm.
void Store::Follower::list(std::size_t count_max, News& news) {
  const auto& index = state_->index;
  if (buckets_ != index.bucket_count()) {
    buckets_ = index.bucket_count();
    bucket_ = 0;
  }
  const std::size_t end = std::min(buckets_, bucket_ + 4 * count_max);  // most may be empty
  for (; bucket_ < end && news.places.size() < count_max; ++bucket_) {
    for (auto at = index.begin(bucket_); at != index.end(bucket_); ++at) {
      if (const auto tier = State::tier_of(at->second)) {
        news.places.push_back({.key_low = at->first.low, .tier = tier});
      }
    }
  }
  lists_ = bucket_ < buckets_;
}

}  // namespace penstock::tiers
