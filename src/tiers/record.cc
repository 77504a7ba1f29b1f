#include "tiers/record.h"

#include <algorithm>

namespace penstock::tiers {
namespace {

constexpr std::uint64_t kSegmentMagic = 0x31474553564b5350;  // "PSKVSEG1"
constexpr std::uint64_t kRecordMagic = 0x31434552564b5350;   // "PSKVREC1"
constexpr std::uint64_t kFooterMagic = 0x31544f46564b5350;   // "PSKVFOT1"
constexpr std::uint32_t kRecordsMin = 4;
constexpr std::uint32_t kRecordsMax = 1 << 20;

template <class Header>
transfer::Checksum sum_of(const Header& header) noexcept {
  return transfer::checksum(reinterpret_cast<const std::byte*>(&header),
                            offsetof(Header, header_sum));
}

template <class Header>
void seal_as(Header& header, std::uint64_t magic) noexcept {
  header.magic = magic;
  header.header_sum = sum_of(header);
}

}  // namespace

Geometry Geometry::of(std::uint32_t block_bytes, std::uint64_t segment_bytes) noexcept {
  const auto with = [block_bytes](std::uint32_t records) {
    Geometry g;
    g.block_bytes = block_bytes;
    g.record_bytes = whole_pages(kRecordHeaderBytes + block_bytes);
    g.records = records;
    g.footer_at = kPageBytes + g.records * g.record_bytes;
    g.footer_bytes = whole_pages(sizeof(FooterHeader) + g.records * sizeof(FooterEntry));
    g.segment_bytes = g.footer_at + g.footer_bytes;
    return g;
  };
  // A first guess that is at most one too few, since the footer is rounded up by less than a page.
  const std::uint64_t each = with(0).record_bytes + sizeof(FooterEntry);
  const std::uint64_t fit = (std::max(segment_bytes, 2 * kPageBytes) - 2 * kPageBytes) / each;
  const auto records = std::clamp<std::uint64_t>(fit, kRecordsMin, kRecordsMax - 1);
  const Geometry more = with(static_cast<std::uint32_t>(records + 1));
  return more.segment_bytes <= segment_bytes ? more : with(static_cast<std::uint32_t>(records));
}

std::uint64_t segment_bytes_for(std::uint64_t disk_bytes) noexcept {
  std::uint64_t bytes = kSegmentBytesMin;
  while (disk_bytes / bytes > kSegmentsMax) bytes *= 2;
  return bytes;
}

void seal(SegmentHeader& header) noexcept { seal_as(header, kSegmentMagic); }
void seal(RecordHeader& header) noexcept { seal_as(header, kRecordMagic); }
void seal(FooterHeader& header) noexcept { seal_as(header, kFooterMagic); }

bool is_whole(const SegmentHeader& h) noexcept {
  return h.magic == kSegmentMagic && h.version == kFormatVersion && h.header_sum == sum_of(h);
}
bool is_whole(const RecordHeader& h) noexcept {
  return h.magic == kRecordMagic && h.header_sum == sum_of(h);
}
bool is_whole(const FooterHeader& h) noexcept {
  return h.magic == kFooterMagic && h.header_sum == sum_of(h);
}

}  // namespace penstock::tiers
