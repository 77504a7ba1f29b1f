#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "transfer/block_table.h"
#include "transfer/grants.h"

namespace penstock::engine {

/// Where other processes read a worker's memory. Nothing set: only its own process does.
struct KvAddress {
  std::string socket_path;     // transfer::HostServer; empty: none
  std::string tcp_host;        // transfer::TcpServer; empty: where the worker itself is
  std::uint16_t tcp_port = 0;  // 0: none
  [[nodiscard]] bool nowhere() const noexcept { return socket_path.empty() && tcp_port == 0; }
  friend bool operator==(const KvAddress&, const KvAddress&) = default;
};

/// Where the KV of a prompt lies that one worker computed for another: names blocks, holds none of
/// them. Worth nothing once the lease of the request that made it has ended; who uses it then gets
/// a miss.
struct KvTicket {
  std::uint64_t source = 0;  // the worker's memory, in one life of it (KvExchange)
  transfer::GrantId grant;
  std::vector<transfer::BlockRef> blocks;  // full ones, from the prompt's first token on
  KvAddress at;
};

/// Why blocks that a ticket names were not taken over. They are computed instead.
enum class FetchMiss : std::uint8_t {
  kUnreachable,  // the worker is gone, or is none that this one can take blocks from
  kLeaseEnded,   // before they were asked for, or meanwhile
  kStale,        // the memory holds other blocks by now
  kCorrupt,      // the bytes are not those of the checksum, or too few
  kDeadline,     // not here within the time that computing them takes
  kNoRoom,       // every block of the own pool is in use
};
inline constexpr std::size_t kFetchMisses = 6;

[[nodiscard]] constexpr std::string_view to_string(FetchMiss miss) noexcept {
  constexpr std::string_view kNames[kFetchMisses] = {"unreachable", "lease_ended", "stale",
                                                     "corrupt",     "deadline",    "no_room"};
  return kNames[static_cast<std::size_t>(miss)];
}

}  // namespace penstock::engine
