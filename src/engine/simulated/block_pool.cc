#include "engine/simulated/block_pool.h"

#include <bit>

#include "base/check.h"

namespace penstock::engine::simulated {

BlockPool::BlockPool(std::uint32_t capacity, PoolListener* listener)
    : capacity_(capacity), listener_(listener), free_count_(capacity) {
  CHECK_GE(capacity, 1U);
  CHECK_LE(capacity, 1U << 28);
  slots_.resize(std::size_t{capacity} + 1);
  // Four times the capacity keeps probes and erasures short even for neighbours that come in
  // eights; a hole always exists, so that probe() ends.
  index_.resize(std::bit_ceil(std::size_t{capacity} * 4));
  mask_ = index_.size() - 1;
  for (Slot slot = capacity; slot-- > 0;) {
    slots_[slot].next = free_;
    free_ = slot;
  }
  Block& sentinel = slots_[capacity_];
  sentinel.previous = sentinel.next = capacity_;
}

void BlockPool::acquire(std::span<const Slot> slots) {
  for (const Slot slot : slots) {
    if (slots_[slot].references++ == 0) {
      unlink_inactive(slot);
      ++active_;
    }
  }
}

bool BlockPool::allocate(std::uint32_t count, std::vector<Slot>& owned) {
  if (count > available()) return false;
  removed_.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    Slot slot = free_;
    if (slot != kNone) {
      free_ = slots_[slot].next;
      --free_count_;
    } else {
      slot = take_oldest();
      ++evictions_;
    }
    slots_[slot].references = 1;
    owned.push_back(slot);
  }
  active_ += count;
  if (!removed_.empty()) listener_->removed(removed_);
  return true;
}

void BlockPool::complete(std::span<const Slot> slots, const StoredRun& run) {
  CHECK_EQ(slots.size(), run.keys.size());
  // Runs of new names are told together; a name that is held already ends one.
  std::size_t begin = 0;
  const auto tell = [&](std::size_t end) {
    if (listener_ != nullptr && begin < end) {
      listener_->stored({.tag = run.tag,
                         .first_block = run.first_block + static_cast<std::uint32_t>(begin),
                         .parent = begin == 0 ? run.parent : run.keys[begin - 1],
                         .keys = run.keys.subspan(begin, end - begin)});
    }
    begin = end + 1;
  };
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (!name(slots[i], run.keys[i])) tell(i);
  }
  tell(slots.size());
}

void BlockPool::release(std::vector<Slot>& owned) {
  for (std::size_t i = owned.size(); i-- > 0;) {
    const Slot slot = owned[i];
    Block& block = slots_[slot];
    if (--block.references > 0) continue;
    --active_;
    if (block.next_copy != kUnnamed) {
      push_inactive(slot);
    } else {
      free(slot);
    }
  }
  owned.clear();
}

std::span<const kv::BlockHash> BlockPool::clear() {
  removed_.clear();
  while (slots_[capacity_].next != capacity_) free(take_oldest());
  return removed_;
}

void BlockPool::free(Slot slot) noexcept {
  slots_[slot].next = free_;
  free_ = slot;
  ++free_count_;
}

/// True if the name is new.
bool BlockPool::name(Slot slot, const kv::BlockHash& key) {
  Block& block = slots_[slot];
  block.key = key;
  block.next_copy = kNone;
  const std::uint32_t tag = tag_of(key);
  Entry& entry = index_[probe(key, tag)];
  if (entry.slot == kNone) {
    entry = {.tag = tag, .slot = slot};
    ++names_;
    return true;
  }
  Slot youngest = entry.slot;
  while (slots_[youngest].next_copy != kNone) youngest = slots_[youngest].next_copy;
  slots_[youngest].next_copy = slot;
  return false;
}

/// Takes an inactive slot's name away, and out of the index with the last copy.
void BlockPool::forget(Slot slot) {
  Block& block = slots_[slot];
  const std::size_t at = probe(block.key, tag_of(block.key));
  if (index_[at].slot != slot) {
    Slot before = index_[at].slot;
    while (slots_[before].next_copy != slot) before = slots_[before].next_copy;
    slots_[before].next_copy = block.next_copy;
  } else if (block.next_copy != kNone) {
    index_[at].slot = block.next_copy;
  } else {
    erase_entry(at);
    --names_;
    if (listener_ != nullptr) removed_.push_back(block.key);
  }
  block.next_copy = kUnnamed;
}

/// Moves the entries behind the hole back where a probe finds them.
void BlockPool::erase_entry(std::size_t at) {
  std::size_t hole = at;
  for (std::size_t i = (at + 1) & mask_; index_[i].slot != kNone; i = (i + 1) & mask_) {
    const std::size_t home = index_[i].tag & mask_;
    if (((i - home) & mask_) >= ((i - hole) & mask_)) {
      index_[hole] = index_[i];
      hole = i;
    }
  }
  index_[hole].slot = kNone;
}

/// Off the LRU list, and without its name.
BlockPool::Slot BlockPool::take_oldest() {
  const Slot slot = slots_[capacity_].next;
  unlink_inactive(slot);
  forget(slot);
  return slot;
}

void BlockPool::push_inactive(Slot slot) noexcept {
  Block& sentinel = slots_[capacity_];
  slots_[slot].previous = sentinel.previous;
  slots_[slot].next = capacity_;
  slots_[sentinel.previous].next = slot;
  sentinel.previous = slot;
}

void BlockPool::unlink_inactive(Slot slot) noexcept {
  const Block& block = slots_[slot];
  slots_[block.previous].next = block.next;
  slots_[block.next].previous = block.previous;
}

void BlockPool::check_invariants(std::span<const std::span<const Slot>> owned) const {
  std::vector<std::uint32_t> references(capacity_);
  for (const auto& list : owned) {
    for (const Slot slot : list) ++references.at(slot);
  }
  enum class Seen : std::uint8_t { kNot, kFree, kInactive };
  std::vector<Seen> seen(capacity_, Seen::kNot);
  std::uint32_t free_count = 0;
  for (Slot slot = free_; slot != kNone; slot = slots_[slot].next, ++free_count) {
    CHECK(seen.at(slot) == Seen::kNot);
    CHECK_EQ(slots_[slot].next_copy, kUnnamed);
    seen[slot] = Seen::kFree;
  }
  CHECK_EQ(free_count, free_count_);
  for (Slot slot = slots_[capacity_].next; slot != capacity_; slot = slots_[slot].next) {
    CHECK(seen.at(slot) == Seen::kNot);
    CHECK(slots_[slot].next_copy != kUnnamed);
    CHECK_EQ(slots_[slots_[slot].next].previous, slot);
    seen[slot] = Seen::kInactive;
  }
  std::uint32_t active = 0;
  std::uint32_t named = 0;
  for (Slot slot = 0; slot < capacity_; ++slot) {
    const Block& block = slots_[slot];
    CHECK_EQ(block.references, references[slot]);
    CHECK_EQ(block.references == 0, seen[slot] != Seen::kNot);
    active += block.references > 0 ? 1 : 0;
    if (block.next_copy == kUnnamed) {
      CHECK_LE(block.references, 1U);
      continue;
    }
    ++named;
    CHECK(find(block.key) != kNone);
  }
  CHECK_EQ(active, active_);
  std::uint32_t names = 0;
  std::uint32_t copies = 0;
  for (const Entry& entry : index_) {
    if (entry.slot == kNone) continue;
    ++names;
    for (Slot copy = entry.slot; copy != kNone; copy = slots_[copy].next_copy, ++copies) {
      CHECK(slots_[copy].key == slots_[entry.slot].key);
    }
  }
  CHECK_EQ(names, names_);
  CHECK_EQ(copies, named);
}

}  // namespace penstock::engine::simulated
