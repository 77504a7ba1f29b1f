#pragma once

#include <cstdint>

#include "base/result.h"

namespace penstock::transfer {

/// What a block holds, as a digest of its tokens and all before them: who asks for a block says
/// which one, and a slot that was reused in the meantime does not answer to it.
struct BlockKey {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend bool operator==(const BlockKey&, const BlockKey&) = default;
};

/// Where the blocks of an arena lie. A block is a slot; it has `parts` (the layers, or K and V of
/// each), which may lie together or each in a region of its own:
/// part p of slot s begins at offset + s * slot_stride + p * part_stride.
struct Layout {
  static constexpr std::uint32_t kPartsMax = 1024;

  std::uint32_t slots = 0;
  std::uint32_t parts = 1;
  std::uint32_t part_bytes = 0;
  std::uint64_t slot_stride_bytes = 0;
  std::uint64_t part_stride_bytes = 0;
  std::uint64_t offset_bytes = 0;

  friend bool operator==(const Layout&, const Layout&) = default;

  /// Blocks one after another, the parts of a block side by side: what host memory and disk want.
  [[nodiscard]] static Layout by_block(std::uint32_t slots, std::uint32_t parts,
                                       std::uint32_t part_bytes) noexcept {
    return {slots, parts, part_bytes, std::uint64_t{parts} * part_bytes, part_bytes, 0};
  }
  /// A region for each part, all blocks in it: how engines lay out a layer's cache.
  [[nodiscard]] static Layout by_part(std::uint32_t slots, std::uint32_t parts,
                                      std::uint32_t part_bytes) noexcept {
    return {slots, parts, part_bytes, part_bytes, std::uint64_t{slots} * part_bytes, 0};
  }

  [[nodiscard]] std::uint64_t at(std::uint32_t slot, std::uint32_t part) const noexcept {
    return offset_bytes + slot * slot_stride_bytes + part * part_stride_bytes;
  }
  [[nodiscard]] std::uint64_t block_bytes() const noexcept {
    return std::uint64_t{parts} * part_bytes;
  }
  /// Bytes from the memory's beginning to the end of the last part. Needs `validate` first.
  [[nodiscard]] std::uint64_t end_bytes() const noexcept {
    return at(slots - 1, parts - 1) + part_bytes;
  }
  /// Fails unless all parts lie within `memory_bytes` and none overlaps another. Layouts come from
  /// other processes: this holds for any numbers in them.
  [[nodiscard]] Result<void> validate(std::uint64_t memory_bytes) const;
};

/// Fails unless blocks of `from` can become blocks of `to`: as many parts of the same size. Strides
/// may differ; the copy converts.
[[nodiscard]] Result<void> check_plan(const Layout& from, const Layout& to);

}  // namespace penstock::transfer
