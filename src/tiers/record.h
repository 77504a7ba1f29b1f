#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "tiers/key.h"
#include "transfer/checksum.h"

/// What lies on disk. A segment is a file of fixed size:
///
///   page 0              SegmentHeader
///   records             each at a fixed place: RecordHeader, the block, padding to a whole page
///   footer              FooterHeader, an entry a record; written when the segment is full
///
/// Each piece carries its own checksum and says where it belongs, so that a piece of another file,
/// of an earlier use of the disk or of a write that was cut off is taken for nothing.
namespace penstock::tiers {

static_assert(std::endian::native == std::endian::little, "the files are little-endian");

inline constexpr std::uint64_t kPageBytes = 4096;  // O_DIRECT's unit everywhere
inline constexpr std::uint64_t kRecordHeaderBytes = 128;
inline constexpr std::uint32_t kFormatVersion = 3;

[[nodiscard]] constexpr std::uint64_t whole_pages(std::uint64_t bytes) noexcept {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

struct SegmentHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = kFormatVersion;
  std::uint32_t block_bytes = 0;
  std::uint64_t segment = 0;
  std::uint64_t segment_bytes = 0;
  Key compatibility;
  std::int64_t created_unix_s = 0;
  std::uint64_t spent_bytes = 0;      // of the day's writes, then
  transfer::Checksum header_sum = 0;  // of all before
};

struct RecordHeader {
  std::uint64_t magic = 0;
  std::uint64_t segment = 0;
  std::uint32_t record = 0;
  std::uint32_t block_bytes = 0;
  Key key;
  Key compatibility;
  std::uint64_t generation = 0;  // rises with every record of a store
  std::uint32_t recompute_us = 0;
  std::uint32_t unused = 0;
  transfer::Checksum block_sum = 0;
  transfer::Checksum header_sum = 0;  // of all before
};
static_assert(sizeof(RecordHeader) <= kRecordHeaderBytes);

struct FooterHeader {
  std::uint64_t magic = 0;
  std::uint64_t segment = 0;
  std::uint64_t entries = 0;
  transfer::Checksum entries_sum = 0;
  transfer::Checksum header_sum = 0;  // of all before
};

struct FooterEntry {
  Key key;
  std::uint64_t generation = 0;  // 0: no block here
  transfer::Checksum block_sum = 0;
  std::uint32_t recompute_us = 0;
  std::uint32_t unused = 0;
};

/// Where things lie in segments of blocks of one size.
struct Geometry {
  std::uint32_t block_bytes = 0;
  std::uint64_t record_bytes = 0;
  std::uint32_t records = 0;
  std::uint64_t footer_at = 0;
  std::uint64_t footer_bytes = 0;
  std::uint64_t segment_bytes = 0;

  /// As many records as fit into `segment_bytes`, a handful at least. Of a `segment_bytes` that it
  /// gave it makes the same again, so a file's size says how it is laid out.
  [[nodiscard]] static Geometry of(std::uint32_t block_bytes, std::uint64_t segment_bytes) noexcept;
  [[nodiscard]] std::uint64_t record_at(std::uint32_t record) const noexcept {
    return kPageBytes + record * record_bytes;
  }
};

/// A file is held open for each segment: with large disks segments grow, so that there are no more
/// than kSegmentsMax and a few. Sizes may differ within a folder.
inline constexpr std::uint64_t kSegmentBytesMin = 64ULL << 20;
inline constexpr std::uint64_t kSegmentsMax = 1024;
[[nodiscard]] std::uint64_t segment_bytes_for(std::uint64_t disk_bytes) noexcept;

/// Magic and checksum of one of the headers, set and checked.
void seal(SegmentHeader& header) noexcept;
void seal(RecordHeader& header) noexcept;
void seal(FooterHeader& header) noexcept;
[[nodiscard]] bool is_whole(const SegmentHeader& header) noexcept;
[[nodiscard]] bool is_whole(const RecordHeader& header) noexcept;
[[nodiscard]] bool is_whole(const FooterHeader& header) noexcept;

}  // namespace penstock::tiers
