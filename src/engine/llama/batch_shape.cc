#include "engine/llama/batch_shape.h"

#include <algorithm>

namespace penstock::engine::llama {
namespace {

std::uint32_t round_down(std::uint32_t value, std::uint32_t to) { return value / to * to; }

}  // namespace

std::uint32_t next_rows(std::uint32_t computed, std::uint32_t prompt,
                        std::uint32_t budget) noexcept {
  const std::uint32_t part_start = round_down(computed, kPartRows);
  const std::uint32_t part_end = std::min(prompt, part_start + kPartRows);
  const std::uint32_t left = part_end - computed;
  if (left < 2 * kTiledRows) return left;  // cutting it would leave fewer than kTiledRows somewhere
  std::uint32_t rows = std::clamp(budget, kTiledRows, left);
  if (rows < left && left - rows < kTiledRows) rows = left - kTiledRows;
  return rows < left ? round_down(rows, kTiledRows) : rows;
}

std::uint32_t settled_tokens(std::uint32_t prompt) noexcept {
  const std::uint32_t part_start = round_down(prompt, kPartRows);
  return prompt - part_start < kTiledRows ? part_start : round_down(prompt, kRowGroup);
}

std::uint32_t reusable_tokens(std::uint32_t prompt, std::uint32_t matched,
                              std::uint32_t block_tokens, bool exact) noexcept {
  if (prompt == 0) return 0;
  std::uint32_t limit = round_down(std::min(matched, prompt - 1), block_tokens);
  if (!exact) return limit;
  limit = round_down(limit, kRowGroup);
  if (limit % kPartRows == 0) return limit;
  const std::uint32_t part_start = round_down(limit, kPartRows);
  const std::uint32_t part_end = std::min(prompt, part_start + kPartRows);
  // A part that runs by row whole must run whole; of a tiled one, enough must be left to be tiled.
  if (part_end - part_start < kTiledRows) {
    return reusable_tokens(prompt, part_start, block_tokens, exact);
  }
  limit = std::min(limit, part_end - kTiledRows);
  limit = round_down(round_down(limit, block_tokens), kRowGroup);
  // Rounding may have crossed into the part before; its rest is then computed as well.
  return limit < part_start ? reusable_tokens(prompt, limit, block_tokens, exact) : limit;
}

}  // namespace penstock::engine::llama
