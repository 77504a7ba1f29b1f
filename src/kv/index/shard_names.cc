// Names of blocks. A block has one alias, that of who stored it first. Slots of engines that hash
// alike share it; a slot that names a run's blocks otherwise gets a column for the run: its own
// names for all it holds of it. A column lies in the arena, its first word says whose it is.
#include <algorithm>

#include "kv/index/shard.h"

namespace penstock::kv::index {
namespace {

/// A run's memory may grow by what is left of a granule (Shard::release_memory).
constexpr std::uint32_t kColumnReserve = BlockArena::kGranule;

/// Blocks of an extent for the head and so many names: each block has room for two words.
constexpr std::uint32_t column_blocks(std::uint32_t capacity) {
  const std::uint32_t blocks = (1 + capacity + kColumnReserve + 1) / 2;
  return (blocks + BlockArena::kGranule - 1) / BlockArena::kGranule * BlockArena::kGranule;
}

}  // namespace

BlockId Shard::column(std::uint32_t id, Slot slot) const {
  const std::uint64_t head = std::uint64_t{id} << 32 | slot;
  return columns_.find(column_tag(id, slot),
                       [&](BlockId at) { return *blocks_.locals(at) == head; });
}

/// Names follow the head, by turns in the words for hashes and in those for aliases.
std::uint64_t& Shard::word(BlockId column, std::uint32_t offset) const {
  const std::uint32_t at = offset + 1;
  return at % 2 == 0 ? blocks_.locals(column)[at / 2] : blocks_.aliases(column)[at / 2];
}

/// What the slot, which holds the block, calls it.
std::uint64_t Shard::name(std::uint32_t id, Slot slot, std::uint32_t offset) const {
  const Run& run = runs_[id];
  if (run.columns > 0) {
    if (const BlockId own = column(id, slot); own != kNone) return word(own, offset);
  }
  return blocks_.aliases(run.first())[offset];
}

BlockId Shard::new_column(std::uint32_t id, Slot slot, std::uint32_t capacity) {
  const std::uint32_t wanted = column_blocks(capacity);
  std::uint32_t got = 0;
  BlockId at = kNone;
  do {
    at = blocks_.allocate(wanted, got);
    if (at != kNone && got < wanted) {
      blocks_.free(at, got);
      at = kNone;
    }
  } while (at == kNone && make_room());
  if (at == kNone) return kNone;
  std::atomic_ref(*blocks_.locals(at)).store(std::uint64_t{id} << 32 | slot, kRelaxed);
  *blocks_.owners(at) = wanted;
  bool listed = columns_.insert(column_tag(id, slot), at);
  while (!listed && make_room()) listed = columns_.insert(column_tag(id, slot), at);
  if (!listed) {
    *blocks_.owners(at) = 0;
    blocks_.free(at, wanted);
    return kNone;
  }
  runs_[id].columns = runs_[id].columns + 1;
  return at;
}

void Shard::free_column(std::uint32_t id, Slot slot, BlockId column) {
  columns_.erase(column_tag(id, slot), column);
  const std::uint32_t size = *blocks_.owners(column);
  *blocks_.owners(column) = 0;
  blocks_.free(column, size);
  runs_[id].columns = runs_[id].columns - 1;
}

bool Shard::insert_alias(std::uint64_t alias, BlockId block) {
  const std::uint32_t tag = alias_tag(alias);
  bool done = aliases_.insert(tag, block);
  while (!done && make_room()) done = aliases_.insert(tag, block);
  return done;
}

/// From now on the slot calls the run's blocks from `at` on as the event does. False without
/// memory; names beyond what the slot holds are dropped again then.
bool Shard::set_names(std::uint32_t id, std::uint32_t at, Slot slot,
                      std::span<const StoredBlock> blocks) {
  Run& run = runs_[id];
  const BlockId first = run.first();
  const std::uint64_t* primary = blocks_.aliases(first);
  BlockId own = run.columns > 0 ? column(id, slot) : kNone;
  if (own == kNone) {
    std::size_t same = 0;
    while (same < blocks.size() && primary[at + same] == blocks[same].alias) ++same;
    if (same == blocks.size()) return true;
  }
  const std::uint32_t held = real_depth(run, slot);
  if (own == kNone) {
    own = new_column(id, slot, run.capacity);
    if (own == kNone) return false;
    for (std::uint32_t i = 0; i < held; ++i) word(own, i) = primary[i];
  }
  for (std::uint32_t i = 0; i < blocks.size(); ++i) {
    const std::uint32_t offset = at + i;
    std::uint64_t& old = word(own, offset);
    const std::uint64_t alias = blocks[i].alias;
    if (offset < held && old == alias) continue;
    if (alias != primary[offset] && !insert_alias(alias, first + offset)) {
      drop_names(id, slot, held, std::max(held, offset));
      return false;
    }
    if (offset < held && old != primary[offset]) aliases_.erase(alias_tag(old), first + offset);
    std::atomic_ref(old).store(alias, kRelaxed);
  }
  return true;
}

/// Forgets the slot's own names for blocks [from, to), and its column when `from` is 0.
void Shard::drop_names(std::uint32_t id, Slot slot, std::uint32_t from, std::uint32_t to) {
  const Run& run = runs_[id];
  if (run.columns == 0) return;
  const BlockId own = column(id, slot);
  if (own == kNone) return;
  const std::uint64_t* primary = blocks_.aliases(run.first());
  for (std::uint32_t i = from; i < to; ++i) {
    const std::uint64_t alias = word(own, i);
    if (alias != primary[i]) aliases_.erase(alias_tag(alias), run.first() + i);
  }
  if (from == 0) free_column(id, slot, own);
}

/// Gives the upper part of a run columns with what the lower part's say of it. The blocks keep
/// their places, so the names still lead to them. False without memory: then nothing has changed.
bool Shard::split_columns(std::uint32_t lower, std::uint32_t upper, std::uint32_t at) {
  const Run& run = runs_[lower];
  Slot last = kSlotsLimit;
  for (std::uint32_t i = 0; i < run.count(); ++i) {
    const Slot slot = entries(run)[i].load(kRelaxed) >> 12;
    if (slot == last) continue;
    last = slot;
    const std::uint32_t held = real_depth(run, slot);
    const BlockId from = held > at ? column(lower, slot) : kNone;
    if (from == kNone) continue;
    const BlockId to = new_column(upper, slot, run.capacity - at);
    if (to == kNone) {
      for (std::uint32_t j = 0; j < i; ++j) {
        const Slot done = entries(run)[j].load(kRelaxed) >> 12;
        if (const BlockId made = column(upper, done); made != kNone) {
          free_column(upper, done, made);
        }
      }
      return false;
    }
    for (std::uint32_t j = at; j < held; ++j) {
      std::atomic_ref(word(to, j - at)).store(word(from, j), kRelaxed);
    }
  }
  return true;
}

}  // namespace penstock::kv::index
