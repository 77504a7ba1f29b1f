#pragma once

#include <cstdint>

/// Which rows are computed together, so that a token's numbers do not depend on its neighbours.
///
/// In llama.cpp 0.5.0 on a CPU every operation treats a batch's rows alike and apart, except two.
/// Attention takes one of three ways with three roundings (ggml-cpu/ops.cpp,
/// ggml_compute_forward_flash_attn_ext_f16; K and V in f16 or f32):
///   tiled    64 rows of a sequence or more (GGML_FA_TILE_Q)
///   by row   fewer
///   split    one row alone, 512 cells or more, several threads
/// Products with weights of some types (F32 and F16 in llamafile/sgemm.cpp, Q4_K in repack.cpp)
/// round otherwise for a row alone than for rows in groups, of four or sixteen from the batch's
/// first on. llama-server computes a prompt alone in parts of 512 rows from position 0, then a row
/// a token. The functions here choose parts so that each row goes the way it would go there.
namespace penstock::engine::llama {

inline constexpr std::uint32_t kPartRows = 512;  // n_ubatch, as llama-server's default
inline constexpr std::uint32_t kTiledRows = 64;
inline constexpr std::uint32_t kRowGroup = 16;      // parts begin at multiples of it
inline constexpr std::uint32_t kCellPadding = 256;  // llama.cpp pads the cells it looks at
inline constexpr std::uint32_t kSplitCells = 512;

/// How many rows to compute next of a prompt of `prompt` tokens of which `computed` are done, with
/// about `budget` rows to spend (it may be exceeded: a part below kTiledRows is never cut).
[[nodiscard]] std::uint32_t next_rows(std::uint32_t computed, std::uint32_t prompt,
                                      std::uint32_t budget) noexcept;

/// How many rows to compute at least of which the first `rows` come out as they would among more.
[[nodiscard]] constexpr std::uint32_t whole_groups(std::uint32_t rows) noexcept {
  return rows <= kTiledRows ? kTiledRows : (rows + kRowGroup - 1) / kRowGroup * kRowGroup;
}

/// How many of a prompt's first rows came out as they would in any longer prompt that begins so,
/// once all of it is computed: whole groups of parts that are tiled.
[[nodiscard]] std::uint32_t settled_tokens(std::uint32_t prompt) noexcept;

/// How many tokens of a prompt may come from `matched` reusable ones (whole blocks): at least one
/// row is left to compute. `exact`: and every row left goes the way it would have gone alone.
[[nodiscard]] std::uint32_t reusable_tokens(std::uint32_t prompt, std::uint32_t matched,
                                            std::uint32_t block_tokens, bool exact) noexcept;

/// Whether the row at `position` decodes alone and together with other sequences' rows alike.
[[nodiscard]] constexpr bool may_share_step(std::uint32_t position,
                                            std::uint32_t threads) noexcept {
  const std::uint32_t cells = (position + kCellPadding) / kCellPadding * kCellPadding;
  return threads == 1 || cells < kSplitCells;
}

}  // namespace penstock::engine::llama
