#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "engine/kv_ticket.h"
#include "transfer/transfer.h"

namespace penstock::engine::llama {

/// Blocks of a prompt on their way from another worker's memory into slots of this one's pool,
/// which come back to the pool whatever becomes of it (PrefixCache). Stays where it is.
struct PeerFetch {
  KvTicket ticket;
  std::vector<std::uint32_t> take;   // positions in it
  std::vector<std::uint32_t> slots;  // of the pool, one for each
  std::vector<transfer::BlockKey> keys;
  std::vector<transfer::BlockStatus> status;
  TimePoint started;
  Deadline deadline;
  bool begun = false;           // the way to the other worker was open
  transfer::Transfer transfer;  // last: what it reads and writes is there until its end
};

}  // namespace penstock::engine::llama
