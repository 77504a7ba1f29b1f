#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/copy_pool.h"
#include "transfer/peer.h"

namespace penstock::engine {

/// Where the workers of a process find each other's KV: each offers the memory of its blocks, any
/// other pulls what a ticket names from it. Moves no block by itself and knows no requests.
/// Thread: any. `clock` and the exchange outlive the workers.
class KvExchange final {
 public:
  explicit KvExchange(const Clock& clock) : clock_(clock) {}

  /// Lets others pull from `arena`, which lives until withdraw(). Gives the name that tickets say.
  /// `compatibility`: only between workers that say the same are blocks of any use.
  std::uint64_t offer(transfer::Arena& arena, std::string_view compatibility);
  /// From here on nobody reads there; waits for those who do, which is a chunk of a copy.
  void withdraw(std::uint64_t source);

  /// Starts a pull (transfer::Peer::pull) from `source`. Fails with kUnavailable if it is gone,
  /// kUnprocessable if its blocks are others.
  Result<void> pull(std::uint64_t source, std::string_view compatibility,
                    transfer::Transfer& transfer, const transfer::Pull& pull, transfer::Arena& to);

 private:
  struct Source {
    std::string compatibility;
    std::unique_ptr<transfer::Peer> peer;
  };

  const Clock& clock_;
  transfer::CopyPool copies_;  // one thread: outlives the peers
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Source> sources_;
};

}  // namespace penstock::engine
