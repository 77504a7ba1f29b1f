#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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
  std::string address;
  std::string model;
  std::vector<std::string> adapters;
  Labels labels;
  Role role = Role::kBoth;
  std::uint32_t ranks = 1;  // data-parallel; each gets a slot
};

/// What a request asks of a worker beside room. Empty or absent: anything.
struct WorkerFilter {
  std::string_view model;
  std::string_view adapter;
  std::span<const Labels::value_type> labels;  // all of them
  std::optional<std::uint32_t> rank;
};

/// The workers of one router: who has joined, under which slots, in which state. It keeps ledger
/// and index in step: a worker that leaves is gone from both at once, and its slots go to others as
/// new lives, so that leases and events of the old one count no more. Ledger and index must outlive
/// it. Owned by the ledger's thread. Bounded by the ledger's slots.
class Registry final {
 public:
  struct Options {
    WorkerHealth::Options health;
    KvFollower::Options follower;
  };
  /// A check that a worker is due for.
  struct Due {
    Slot slot;  // the first of the worker's
    WorkerHealth::Check check;
  };

  Registry(Ledger& ledger, kv::PrefixIndex& index) : Registry(ledger, index, Options{}) {}
  Registry(Ledger& ledger, kv::PrefixIndex& index, const Options& options);

  /// The worker's first slot; its ranks follow one another in slots(). An instance that is known
  /// keeps what it has. A known address under a new instance: the old worker is gone. Fails with
  /// kOverloaded when there are no slots left, kInvalidArgument without an instance or ranks.
  Result<Slot> join(const WorkerInfo& info, TimePoint now);
  /// Gone now, with all its leases and blocks. Unknown instances are ignored.
  void leave(std::string_view instance);
  /// The whole list as discovery sees it: joins and leaves what differs. (A discovery that is lost
  /// calls nothing, and nothing changes.)
  void listed(std::span<const WorkerInfo> all, TimePoint now);

  /// Null: nobody has that slot.
  [[nodiscard]] const WorkerInfo* info(Slot slot) const noexcept;
  [[nodiscard]] WorkerHealth* health(Slot slot) noexcept;
  [[nodiscard]] KvFollower* follower(Slot slot) noexcept;
  [[nodiscard]] bool matches(Slot slot, const WorkerFilter& filter) const noexcept;
  /// No request is left on any slot of the worker: a draining one can go.
  [[nodiscard]] bool idle(Slot slot) const noexcept;

  /// Lets the time pass and brings states and trust into the ledger. Appends the checks that are
  /// due.
  void tick(TimePoint now, std::vector<Due>& due);

 private:
  struct Worker {
    WorkerInfo info;
    std::vector<Slot> slots;  // by rank
    WorkerHealth health;
    std::vector<std::unique_ptr<KvFollower>> followers;  // by rank
  };

  [[nodiscard]] Worker* worker_at(Slot slot) noexcept;
  [[nodiscard]] const Worker* worker_at(Slot slot) const noexcept;
  void remove(Worker& worker);

  Ledger& ledger_;
  kv::PrefixIndex& index_;
  const Options options_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> by_slot_;
};

}  // namespace penstock::fleet
