#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "transfer/transfer.h"

namespace penstock::engine::llama {

/// Blocks of a prompt on their way from another worker's memory into slots of this one's pool,
/// which come back to the pool whatever becomes of it (PrefixCache). Stays where it is.
struct PeerFetch {
  std::vector<transfer::BlockRef> granted;  // the ticket's
  std::vector<std::uint32_t> take;          // positions in it
  std::vector<std::uint32_t> slots;         // of the pool, one for each
  std::vector<transfer::BlockKey> keys;
  std::vector<transfer::BlockStatus> status;
  TimePoint started;
  transfer::Transfer transfer;  // last: what it reads and writes is there until its end
};

}  // namespace penstock::engine::llama
