#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"
#include "transfer/block_table.h"
#include "transfer/grants.h"
#include "transfer/layout.h"
#include "transfer/memory.h"

namespace penstock::transfer {

/// Memory cut into slots for blocks, registered once. Whoever owns the arena decides which slot is
/// used for what; a slot has one writer at a time, and its life is reserve, fill or write, commit.
/// Readers see a block only after commit, and never one that was changed since without noticing.
class Arena final {
 public:
  /// kShared or kPrivate memory.
  static Result<std::unique_ptr<Arena>> create(const Layout& layout, MemoryKind kind,
                                               Touch touch = Touch::kAtOnce);
  /// The caller's memory, which outlives the arena: an engine's own cache.
  static Result<std::unique_ptr<Arena>> adopt(const Layout& layout, std::span<std::byte> memory);

  [[nodiscard]] const Layout& layout() const noexcept { return layout_; }
  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }
  [[nodiscard]] BlockTable& table() noexcept { return table_; }
  [[nodiscard]] const BlockTable& table() const noexcept { return table_; }
  [[nodiscard]] Grants& grants() noexcept { return grants_; }
  /// Other parts of this process read under this page.
  [[nodiscard]] ReaderPage& local_readers() noexcept { return *local_readers_; }

  [[nodiscard]] std::byte* part(std::uint32_t slot, std::uint32_t part) const noexcept {
    return memory_.data() + layout_.at(slot, part);
  }

  /// The slot is no longer readable and may be written. Where a grant covers it, close that first,
  /// or its readers find the block stale.
  void reserve(std::uint32_t slot) noexcept { table_.reserve(slot); }
  /// Copies a part into a reserved slot and notes its checksum.
  void fill(std::uint32_t slot, std::uint32_t part, const std::byte* from) noexcept;
  /// A reserved slot whose parts were all filled becomes readable.
  void commit(std::uint32_t slot, BlockKey key) noexcept;
  /// The same for a slot that somebody wrote in place: takes the checksums now.
  void sum_and_commit(std::uint32_t slot, BlockKey key) noexcept;

  /// How a ticket names what the slot holds now; nothing if it is not readable.
  [[nodiscard]] std::optional<BlockRef> ref(std::uint32_t slot) const noexcept;
  /// Whether the slot is readable, holds `key`, and its bytes are still what they were.
  [[nodiscard]] bool verify(std::uint32_t slot, BlockKey key) const noexcept;

 private:
  Arena(const Layout& layout, Memory memory, BlockTable table) noexcept;
  static Result<std::unique_ptr<Arena>> make(const Layout& layout, Memory memory);

  Layout layout_;
  Memory memory_;
  BlockTable table_;
  Grants grants_;
  std::unique_ptr<ReaderPage> local_readers_;
};

}  // namespace penstock::transfer
