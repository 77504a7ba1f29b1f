#include "transfer/layout.h"

#include <fmt/format.h>

namespace penstock::transfer {

Result<void> Layout::validate(std::uint64_t memory_bytes) const {
  using Wide = unsigned __int128;
  if (slots == 0 || parts == 0 || part_bytes == 0 || parts > kPartsMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("a layout of {} slots, {} parts of {} bytes: each must be at least 1, "
                            "parts at most {}",
                            slots, parts, part_bytes, kPartsMax));
  }
  const Wide slot_stride = slot_stride_bytes;
  const Wide part_stride = part_stride_bytes;
  const Wide end =
      Wide{offset_bytes} + (slots - 1) * slot_stride + (parts - 1) * part_stride + part_bytes;
  if (end > memory_bytes) {
    return fail(Code::kInvalidArgument,
                fmt::format("a layout ends beyond its {} bytes of memory", memory_bytes));
  }
  const bool parts_within_slot =
      (parts == 1 || part_stride >= part_bytes) &&
      (slots == 1 || slot_stride >= (parts - 1) * part_stride + part_bytes);
  const bool slots_within_part =
      (slots == 1 || slot_stride >= part_bytes) &&
      (parts == 1 || part_stride >= (slots - 1) * slot_stride + part_bytes);
  if (!parts_within_slot && !slots_within_part) {
    return fail(Code::kInvalidArgument,
                fmt::format("strides of {} and {} bytes let parts of {} bytes overlap",
                            slot_stride_bytes, part_stride_bytes, part_bytes));
  }
  return {};
}

Result<void> check_plan(const Layout& from, const Layout& to) {
  if (from.parts != to.parts || from.part_bytes != to.part_bytes) {
    return fail(
        Code::kUnprocessable,
        fmt::format("blocks of {} parts of {} bytes do not fit slots of {} parts of {} bytes",
                    from.parts, from.part_bytes, to.parts, to.part_bytes));
  }
  return {};
}

}  // namespace penstock::transfer
