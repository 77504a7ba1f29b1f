#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"

namespace penstock::engine::llama {

/// Cuts the state of a sequence, as llama.cpp writes it, into blocks of positions, and puts blocks
/// together into a state it reads. Learned once from a real state and checked against it: a layout
/// this class does not understand (transposed V, sliding windows, recurrent models) is refused, and
/// the worker then reuses no KV rather than wrong KV.
///
/// Layout of llama.cpp 0.5.0 (LLAMA_STATE_SEQ_VERSION 3), one sequence of n cells:
///   u32 magic, i32 sequence, u32 streams, for each stream: u32 cells, and where cells > 0:
///   n x {i32 position, u32 1, i32 sequence}, u32 v_transposed, u32 layers,
///   then for K of each layer and for V of each layer: i32 type, u64 row bytes, n rows.
/// A block's bytes are its rows of the first part, then of the second, and so on.
class StateCodec final {
 public:
  /// `state` is a whole state of `cells` positions 0..cells-1. Fails with kUnprocessable.
  static Result<StateCodec> learn(std::span<const std::uint8_t> state, std::uint32_t cells);

  [[nodiscard]] std::size_t bytes_per_token() const noexcept { return bytes_per_token_; }
  /// Size of a state of `cells` positions.
  [[nodiscard]] std::size_t state_bytes(std::uint32_t cells) const noexcept;

  /// Copies positions [first, first + count) of a state of `cells` positions into `block`.
  void cut(std::span<const std::uint8_t> state, std::uint32_t cells, std::uint32_t first,
           std::uint32_t count, std::span<std::byte> block) const;

  /// Builds in `state` the state of positions 0..blocks.size()*block_tokens-1.
  void join(std::span<const std::span<const std::byte>> blocks, std::uint32_t block_tokens,
            std::vector<std::uint8_t>& state) const;

 private:
  struct Section {  // K or V of one layer
    std::int32_t type = 0;
    std::uint64_t row_bytes = 0;
  };

  [[nodiscard]] std::size_t meta_bytes(std::uint32_t cells) const noexcept;

  std::uint32_t magic_ = 0;
  std::uint32_t streams_ = 0;
  std::uint32_t layers_ = 0;
  std::vector<Section> sections_;
  std::size_t bytes_per_token_ = 0;
};

}  // namespace penstock::engine::llama
