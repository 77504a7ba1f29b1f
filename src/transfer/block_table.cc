#include "transfer/block_table.h"

#include <new>

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kMagic = 0x6b636f74736e6550;  // "Penstock"
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kLine = 64;

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);

std::uint32_t entry_bytes_for(std::uint32_t checksums_at, std::uint32_t parts) {
  return (checksums_at + sizeof(Checksum) * parts + kLine - 1) / kLine * kLine;
}

}  // namespace

Result<BlockTable> BlockTable::create(const Layout& layout, std::uint64_t epoch) {
  BlockTable table;
  table.entry_bytes_ = entry_bytes_for(kChecksumsAt, layout.parts);
  auto memory = Memory::create(MemoryKind::kShared,
                               sizeof(Head) + std::uint64_t{layout.slots} * table.entry_bytes_);
  if (!memory) return std::unexpected(memory.error());
  table.memory_ = std::move(*memory);
  auto* head = new (table.memory_.data()) Head{};
  head->magic = kMagic;
  head->version = kVersion;
  head->slots = layout.slots;
  head->parts = layout.parts;
  head->entry_bytes = table.entry_bytes_;
  head->epoch = epoch;
  return table;
}

Result<BlockTable> BlockTable::open(int fd, std::uint64_t size_bytes, const Layout& layout) {
  BlockTable table;
  table.entry_bytes_ = entry_bytes_for(kChecksumsAt, layout.parts);
  if (size_bytes < sizeof(Head) + std::uint64_t{layout.slots} * table.entry_bytes_) {
    return fail(Code::kInvalidArgument, "a peer's table is too short for its slots");
  }
  auto memory = Memory::map(fd, size_bytes, false);
  if (!memory) return std::unexpected(memory.error());
  table.memory_ = std::move(*memory);
  const Head* head = table.head();
  if (head->magic != kMagic || head->version != kVersion || head->slots != layout.slots ||
      head->parts != layout.parts || head->entry_bytes != table.entry_bytes_) {
    return fail(Code::kUnprocessable, "a peer's table was made by another build");
  }
  return table;
}

BlockHead BlockTable::block(std::uint32_t slot) const noexcept {
  const Entry* at = entry(slot);
  BlockHead head;
  head.generation = at->generation.load(std::memory_order_acquire);
  head.key = {at->key_high.load(std::memory_order_relaxed),
              at->key_low.load(std::memory_order_relaxed)};
  head.length_bytes = at->length_bytes.load(std::memory_order_relaxed);
  return head;
}

void BlockTable::reserve(std::uint32_t slot) noexcept {
  Entry* at = entry(slot);
  const std::uint64_t now = at->generation.load(std::memory_order_relaxed);
  if (now % 2 == 0) at->generation.store(now + 1, std::memory_order_relaxed);
  // The slot's bytes change after readers can see that they do.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void BlockTable::commit(std::uint32_t slot, BlockKey key, std::uint32_t length_bytes) noexcept {
  Entry* at = entry(slot);
  at->key_high.store(key.high, std::memory_order_relaxed);
  at->key_low.store(key.low, std::memory_order_relaxed);
  at->length_bytes.store(length_bytes, std::memory_order_relaxed);
  at->generation.store(at->generation.load(std::memory_order_relaxed) + 1,
                       std::memory_order_release);
}

bool BlockTable::grant_is_live(GrantId id, TimePoint now) const noexcept {
  if (id.cell >= kGrantsMax) return false;
  const GrantCell& cell = grant(id.cell);
  return cell.state.load(std::memory_order_seq_cst) == std::uint64_t{id.generation} * 2 + 1 &&
         now.time_since_epoch().count() < cell.expires_ns.load(std::memory_order_relaxed);
}

}  // namespace penstock::transfer
