#pragma once

#include <vector>

#include "fleet/kv_batch.h"
#include "fleet/kv_follower.h"
#include "kv/events.h"

namespace penstock::serve {

/// Reads what one worker tells of its cache into a prefix index, when asked to: the index is then
/// as new as the question (or as what has come of a worker elsewhere). One thread at a time; source
/// and follower must outlive it.
class KvReader final {
 public:
  KvReader(const kv::EventSource& source, fleet::KvFollower& follower)
      : source_(source), follower_(follower) {}

  /// Takes in what is new. Costs a load when nothing is.
  void catch_up(TimePoint now);

  [[nodiscard]] fleet::KvFollower& follower() const noexcept { return follower_; }

 private:
  bool replay(std::uint64_t from, TimePoint now);
  void take_snapshot(TimePoint now);
  void fill_batch();

  const kv::EventSource& source_;
  fleet::KvFollower& follower_;
  std::vector<kv::Event> events_;  // scratch, as the others
  std::vector<kv::StoredBlock> run_;
  fleet::KvBatch batch_;
};

}  // namespace penstock::serve
