#include "transfer/arena.h"

#include <fmt/format.h>
#include <sys/random.h>

#include "transfer/checksum.h"

namespace penstock::transfer {
namespace {

constexpr std::uint64_t kBlockBytesMax = std::uint64_t{1} << 31;

Result<std::uint64_t> draw_epoch() {
  std::uint64_t epoch = 0;
  if (getrandom(&epoch, sizeof epoch, 0) != sizeof epoch) {
    return fail(Code::kUnavailable, "the system gives no random numbers");
  }
  return epoch;
}

Result<void> check_block(const Layout& layout) {
  if (layout.block_bytes() > kBlockBytesMax) {
    return fail(Code::kInvalidArgument, fmt::format("a block of {} bytes: at most {}",
                                                    layout.block_bytes(), kBlockBytesMax));
  }
  return {};
}

}  // namespace

Arena::Arena(const Layout& layout, Memory memory, BlockTable table) noexcept
    : layout_(layout),
      memory_(std::move(memory)),
      table_(std::move(table)),
      grants_(table_),
      local_readers_(std::make_unique<ReaderPage>()) {
  grants_.attach(local_readers_.get());
}

Result<std::unique_ptr<Arena>> Arena::make(const Layout& layout, Memory memory) {
  const auto epoch = draw_epoch();
  if (!epoch) return std::unexpected(epoch.error());
  auto table = BlockTable::create(layout, *epoch);
  if (!table) return std::unexpected(table.error());
  return std::unique_ptr<Arena>(new Arena(layout, std::move(memory), std::move(*table)));
}

Result<std::unique_ptr<Arena>> Arena::create(const Layout& layout, MemoryKind kind, Touch touch) {
  for (const auto& ok : {layout.validate(UINT64_MAX / 2), check_block(layout)}) {
    if (!ok) return std::unexpected(ok.error());
  }
  auto memory = Memory::create(kind, layout.end_bytes(), touch);
  if (!memory) return std::unexpected(memory.error());
  return make(layout, std::move(*memory));
}

Result<std::unique_ptr<Arena>> Arena::adopt(const Layout& layout, std::span<std::byte> memory) {
  for (const auto& ok : {layout.validate(memory.size()), check_block(layout)}) {
    if (!ok) return std::unexpected(ok.error());
  }
  return make(layout, Memory::adopt(memory));
}

void Arena::fill(std::uint32_t slot, std::uint32_t part, const std::byte* from) noexcept {
  table_.set_checksum(
      slot, part, copy_and_sum(this->part(slot, part), from, layout_.part_bytes, Stores::kCached));
}

void Arena::commit(std::uint32_t slot, BlockKey key) noexcept {
  table_.commit(slot, key, static_cast<std::uint32_t>(layout_.block_bytes()));
}

void Arena::sum_and_commit(std::uint32_t slot, BlockKey key) noexcept {
  for (std::uint32_t part = 0; part < layout_.parts; ++part) {
    table_.set_checksum(slot, part, checksum(this->part(slot, part), layout_.part_bytes));
  }
  commit(slot, key);
}

std::optional<BlockRef> Arena::ref(std::uint32_t slot) const noexcept {
  const BlockHead head = table_.block(slot);
  if (!head.readable()) return std::nullopt;
  return BlockRef{slot, static_cast<std::uint32_t>(head.generation)};
}

bool Arena::verify(std::uint32_t slot, BlockKey key) const noexcept {
  const BlockHead head = table_.block(slot);
  if (!head.readable() || head.key != key) return false;
  for (std::uint32_t part = 0; part < layout_.parts; ++part) {
    if (checksum(this->part(slot, part), layout_.part_bytes) != table_.checksum(slot, part)) {
      return false;
    }
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  return table_.generation(slot) == head.generation;
}

}  // namespace penstock::transfer
