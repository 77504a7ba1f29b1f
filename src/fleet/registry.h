#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/labels.h"
#include "base/result.h"
#include "fleet/health.h"
#include "fleet/kv_follower.h"
#include "fleet/ledger.h"

namespace penstock::fleet {

/// Who a worker is. `instance` names one life of one process: what comes back under another
/// instance is another worker, whatever its address.
struct WorkerInfo {
  std::string instance;
  std::string address;  // empty: it has none
  Labels labels;
  Role role = Role::kBoth;
};

/// The workers of one router: who has joined, under which slot, in which state. It keeps ledger and
/// index in step: a worker that leaves is gone from both at once, and its slot goes to another as a
/// new life, so that leases and events of the old one count no more. Ledger and index must outlive
/// it. Owned by the ledger's thread. Bounded by the ledger's slots.
class Registry final {
 public:
  struct Options {
    WorkerHealth::Options health;
    KvFollower::Options follower;
  };
  /// A check that a worker is due for.
  struct Due {
    Slot slot;
    WorkerHealth::Check check;
  };

  Registry(Ledger& ledger, kv::PrefixIndex& index) : Registry(ledger, index, Options{}) {}
  Registry(Ledger& ledger, kv::PrefixIndex& index, const Options& options);

  /// The worker's slot. An instance that is known keeps what it has. A known address under a new
  /// instance: the old worker is gone. Fails with kOverloaded when there are no slots left,
  /// kInvalidArgument without an instance. `health`: how it is judged, if not as all others.
  Result<Slot> join(const WorkerInfo& info, TimePoint now) {
    return join(info, now, options_.health);
  }
  Result<Slot> join(const WorkerInfo& info, TimePoint now, const WorkerHealth::Options& health);
  /// Gone now, with all its leases and blocks. Unknown instances are ignored.
  void leave(std::string_view instance);

  /// Null: nobody has that slot.
  [[nodiscard]] const WorkerInfo* info(Slot slot) const noexcept;
  [[nodiscard]] WorkerHealth* health(Slot slot) noexcept;
  [[nodiscard]] KvFollower* follower(Slot slot) noexcept;
  /// There is a worker, and it has all of these.
  [[nodiscard]] bool has_labels(Slot slot,
                                std::span<const Labels::value_type> wanted) const noexcept;

  /// Lets the time pass and brings states and trust into the ledger. Appends the checks that are
  /// due.
  void tick(TimePoint now, std::vector<Due>& due);

 private:
  struct Worker {
    WorkerInfo info;
    WorkerHealth health;
    KvFollower follower;
    bool suspect = false;  // and that was told
  };

  [[nodiscard]] Worker* worker_at(Slot slot) const noexcept {
    return slot < workers_.size() ? workers_[slot].get() : nullptr;
  }
  void remove(Slot slot);

  Ledger& ledger_;
  kv::PrefixIndex& index_;
  const Options options_;
  std::vector<std::unique_ptr<Worker>> workers_;  // by slot; null: nobody has it
};

}  // namespace penstock::fleet
