#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/kv_ticket.h"
#include "engine/llama/block_pool.h"

namespace penstock::engine::llama {

/// The KV that a worker keeps for others: blocks pinned in its pool, and granted to who has the
/// ticket, until they are given back or their time is over. At most as many as an arena has grants.
/// The worker's thread. The pool is readable by others, and outlives this.
class KvLeases final {
 public:
  KvLeases(BlockPool& pool, const Clock& clock) : pool_(pool), clock_(clock) {}
  ~KvLeases();
  KvLeases(const KvLeases&) = delete;
  KvLeases& operator=(const KvLeases&) = delete;

  /// Keeps the blocks under the name of their request. Null: no more can be kept.
  [[nodiscard]] std::unique_ptr<KvTicket> open(RequestId id, std::vector<BlockPool::Pin> blocks,
                                               Deadline until);
  /// From here on nobody begins to read them. Unknown ids are ignored.
  void end(RequestId id);
  void end_all();
  /// Ends what is past its time, lets go of what nobody reads any more, and adds those requests to
  /// `gone`.
  void sweep(std::vector<RequestId>& gone);
  /// How long until there is something to sweep; max(): nothing is kept.
  [[nodiscard]] Nanos until_sweep() const;

  [[nodiscard]] std::uint32_t size() const noexcept {
    return static_cast<std::uint32_t>(leases_.size());
  }
  [[nodiscard]] std::uint64_t lapsed() const noexcept { return lapsed_; }

 private:
  struct Lease {
    RequestId id;
    transfer::GrantId grant;
    std::vector<BlockPool::Pin> pins;
    std::vector<transfer::BlockRef> blocks;  // the grant looks at them
    Deadline until;
    bool revoked = false;
  };

  BlockPool& pool_;
  const Clock& clock_;
  std::vector<std::unique_ptr<Lease>> leases_;
  std::uint64_t lapsed_ = 0;
};

}  // namespace penstock::engine::llama
