#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "tiers/decision.h"

namespace penstock::tiers {

/// Why a block was not given or not kept. Each is a miss: the engine computes the block.
enum class Reason : std::uint8_t {
  kDeadline,     // it would have come too late
  kHostFull,     // no slot free: all are in use or on their way to disk
  kCorrupt,      // bytes that are not those of their checksum
  kWrongRecord,  // another block, generation or segment than the index says
  kTruncated,    // the file has less
  kIoError,
  kDiskFull,
  kBreakerOpen,  // the disk failed lately, or does not answer: nobody asks it
  kNotWorth,     // computing it is quicker than reading it
  kCold,         // asked for less often than what would have to go for it
  kWear,         // the day's budget of writes is spent
  kQueueFull,    // too many blocks wait to be written
  kGone,         // dropped since it was found, or just being filled
};
inline constexpr std::size_t kReasons = 13;
[[nodiscard]] std::string_view to_string(Reason reason) noexcept;

/// What a store has done since it was opened, and what it holds now.
struct Stats {
  std::array<std::uint64_t, kReasons> refused{};  // blocks not kept, by reason
  std::array<std::uint64_t, kReasons> missed{};   // blocks found but not given, by reason
  std::array<std::uint64_t, kTiers> given{};      // blocks pinned for a reader, by where they lay
  std::uint64_t asked = 0;                        // blocks looked for
  std::uint64_t host_blocks = 0;
  std::uint64_t host_blocks_max = 0;
  std::uint64_t disk_blocks = 0;
  std::uint64_t disk_bytes = 0;  // of files
  std::uint64_t disk_bytes_max = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t segments_dropped = 0;
  std::uint64_t segments_quarantined = 0;
  std::uint64_t recovered_blocks = 0;
  std::uint64_t incompatible_segments = 0;  // of another model or build, found at the start
  std::uint64_t unreadable_segments = 0;    // found at the start; they count as disk_bytes too
  double recovery_ms = 0;
  double load_predicted_s = 0;  // of all loads that ended, as choose() had it
  double load_taken_s = 0;      // from fetch() to take()
  double disk_ns_per_byte = 0;  // what reading costs, as the next choice takes it
  bool reads_paused = false;    // the disk is left alone after failures, or does not answer
  bool writes_paused = false;   // the same, or it is full
  bool direct = true;           // past the page cache
  friend bool operator==(const Stats&, const Stats&) = default;
};

}  // namespace penstock::tiers
