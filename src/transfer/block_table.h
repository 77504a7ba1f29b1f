#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "base/result.h"
#include "transfer/checksum.h"
#include "transfer/layout.h"
#include "transfer/memory.h"

namespace penstock::transfer {

/// A block as a ticket names it. The low half of the slot's generation is enough: no slot is
/// rewritten two thousand million times while a lease runs.
struct BlockRef {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  friend bool operator==(const BlockRef&, const BlockRef&) = default;
};

/// A grant's cell and how often the cell has been used; travels in a ticket.
struct GrantId {
  std::uint32_t cell = 0;
  std::uint32_t generation = 0;
  friend bool operator==(const GrantId&, const GrantId&) = default;
};

/// What a slot says it holds.
struct BlockHead {
  std::uint64_t generation = 0;  // even and above 0: readable
  BlockKey key;
  std::uint32_t length_bytes = 0;
  [[nodiscard]] bool readable() const noexcept { return generation > 0 && generation % 2 == 0; }
};

/// The slots' heads and the grants of one arena, in a memory file that peers on this host map for
/// reading. Only the owner writes; every field is atomic, since readers look at any time.
///
/// A slot's generation is odd while it is empty or being written and even while it is readable. A
/// reader notes it, reads, and looks again: whatever was reused in between is found.
/// Thread: reading any; a slot has one writer at a time.
class BlockTable final {
 public:
  static constexpr std::uint32_t kGrantsMax = 1024;

  /// The owner's. `epoch` is drawn anew for each life of an arena.
  static Result<BlockTable> create(const Layout& layout, std::uint64_t epoch);
  /// A peer's, from its memory file. Fails with kUnprocessable if it was made by another build.
  static Result<BlockTable> open(int fd, std::uint64_t size_bytes, const Layout& layout);

  [[nodiscard]] std::uint64_t epoch() const noexcept { return head()->epoch; }
  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }

  [[nodiscard]] BlockHead block(std::uint32_t slot) const noexcept;
  [[nodiscard]] std::uint64_t generation(std::uint32_t slot) const noexcept {
    return entry(slot)->generation.load(std::memory_order_acquire);
  }
  [[nodiscard]] Checksum checksum(std::uint32_t slot, std::uint32_t part) const noexcept {
    return checksums(slot)[part].load(std::memory_order_relaxed);
  }
  void prefetch(std::uint32_t slot) const noexcept { __builtin_prefetch(entry(slot)); }

  /// From here on the slot is not readable. Owner only, like all that follows.
  void reserve(std::uint32_t slot) noexcept;
  void set_checksum(std::uint32_t slot, std::uint32_t part, Checksum checksum) noexcept {
    checksums(slot)[part].store(checksum, std::memory_order_relaxed);
  }
  /// Makes a reserved slot readable under a new generation; all its checksums are set.
  void commit(std::uint32_t slot, BlockKey key, std::uint32_t length_bytes) noexcept;

  /// A grant's state as readers see it: generation * 2, + 1 while it may be used.
  struct GrantCell {
    std::atomic<std::uint64_t> state{0};
    std::atomic<std::int64_t> expires_ns{0};  // of CLOCK_MONOTONIC, which a host's processes share
  };
  [[nodiscard]] GrantCell& grant(std::uint32_t cell) const noexcept { return head()->grants[cell]; }
  [[nodiscard]] bool grant_is_live(GrantId id, TimePoint now) const noexcept;

 private:
  struct Head {
    std::uint64_t magic = 0;
    std::uint32_t version = 0;
    std::uint32_t slots = 0;
    std::uint32_t parts = 0;
    std::uint32_t entry_bytes = 0;
    std::uint64_t epoch = 0;
    alignas(64) GrantCell grants[kGrantsMax];
  };
  struct Entry {
    std::atomic<std::uint64_t> generation{0};
    std::atomic<std::uint64_t> key_high{0};
    std::atomic<std::uint64_t> key_low{0};
    std::atomic<std::uint32_t> length_bytes{0};
    // followed by a checksum a part
  };
  static constexpr std::uint32_t kChecksumsAt = 32;

  [[nodiscard]] Head* head() const noexcept { return reinterpret_cast<Head*>(memory_.data()); }
  [[nodiscard]] Entry* entry(std::uint32_t slot) const noexcept {
    return reinterpret_cast<Entry*>(memory_.data() + sizeof(Head) +
                                    std::uint64_t{slot} * entry_bytes_);
  }
  [[nodiscard]] std::atomic<Checksum>* checksums(std::uint32_t slot) const noexcept {
    return reinterpret_cast<std::atomic<Checksum>*>(reinterpret_cast<std::byte*>(entry(slot)) +
                                                    kChecksumsAt);
  }

  Memory memory_;
  std::uint32_t entry_bytes_ = 0;  // read once: a peer cannot change it under us
};

}  // namespace penstock::transfer
