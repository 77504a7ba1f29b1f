#include "tiers/record.h"

#include <algorithm>

namespace penstock::tiers {
namespace {

constexpr std::uint64_t kSegmentMagic = 0x31474553564b5350;  // "PSKVSEG1"
constexpr std::uint64_t kRecordMagic = 0x31434552564b5350;   // "PSKVREC1"
constexpr std::uint64_t kFooterMagic = 0x31544f46564b5350;   // "PSKVFOT1"
constexpr std::uint32_t kRecordsMin = 4;

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
  Geometry g;
  g.block_bytes = block_bytes;
  g.record_bytes = whole_pages(kRecordHeaderBytes + block_bytes);
  const std::uint64_t fit = (std::max(segment_bytes, 2 * kPageBytes) - 2 * kPageBytes) /
                            (g.record_bytes + sizeof(FooterEntry));
  g.records = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(fit, kRecordsMin, 1 << 20));
  g.footer_at = kPageBytes + g.records * g.record_bytes;
  g.footer_bytes = whole_pages(sizeof(FooterHeader) + g.records * sizeof(FooterEntry));
  g.segment_bytes = g.footer_at + g.footer_bytes;
  return g;
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
