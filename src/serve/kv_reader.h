#pragma once

#include <vector>

#include "fleet/kv_batch.h"
#include "fleet/kv_follower.h"
#include "kv/events.h"

namespace penstock::serve {

/// Reads what one worker of this process tells of its cache into a prefix index, when asked to: the
/// index is then as new as the question. One thread at a time; source and index must outlive it.
class KvReader final {
 public:
  KvReader(const kv::EventSource& source, kv::PrefixIndex& index, kv::Slot slot)
      : source_(source), follower_(index, slot) {}

  /// Takes in what is new. Costs a load when nothing is.
  void catch_up(TimePoint now);

  [[nodiscard]] fleet::KvFollower& follower() noexcept { return follower_; }
  [[nodiscard]] const fleet::KvFollower& follower() const noexcept { return follower_; }

 private:
  bool replay(std::uint64_t from, TimePoint now);
  void take_snapshot(TimePoint now);
  void fill_batch();

  const kv::EventSource& source_;
  fleet::KvFollower follower_;
  std::vector<kv::Event> events_;  // scratch, as the others
  std::vector<kv::StoredBlock> run_;
  fleet::KvBatch batch_;
};

}  // namespace penstock::serve
