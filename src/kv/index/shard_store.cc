// How blocks come in: along what is there, appended to it, or as new runs.
#include <algorithm>
#include <thread>

#include "base/check.h"
#include "kv/index/shard.h"

namespace penstock::kv::index {
namespace {

/// Blocks of memory that a new run gets for growing: what decoding adds.
constexpr std::uint32_t kSlackMin = 8;
constexpr std::uint32_t kSlackMax = 64;

/// A writer that waits looks at the lock rarely: each look takes the line from the one who has it
/// and whose next events are mostly for the same shard, cheapest one after the other.
constexpr unsigned kPausesMax = 256;
constexpr unsigned kLooksMax = 16;

constexpr std::uint64_t kMix1 = 0x9E3779B97F4A7C15;
constexpr std::uint64_t kMix2 = 0xBF58476D1CE4E5B9;
constexpr std::uint64_t kMix3 = 0x94D049BB133111EB;

constexpr std::uint32_t fold(std::uint64_t x) {
  x *= kMix2;
  x ^= x >> 32;
  return static_cast<std::uint32_t>((x * kMix3) >> 32);
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void WriterLock::lock() {
  unsigned pauses = 1;
  unsigned looks = 0;
  // The first time without a look: mostly it is free, and so its line comes over once, not twice.
  while (taken_.exchange(true, std::memory_order_acquire)) {
    do {
      for (unsigned i = 0; i < pauses; ++i) pause();
      pauses = std::min(2 * pauses, kPausesMax);
      if (++looks % kLooksMax == 0) std::this_thread::yield();
    } while (taken_.load(kRelaxed));
  }
}

Shard::Shard(const Setup& setup)
    : shed_(setup.shed),
      seed_(setup.seed),
      blocks_(setup.pool, setup.number),
      lists_(setup.pool, setup.number),
      runs_(setup.pool, setup.number),
      edges_(setup.pool, setup.number),
      aliases_(setup.pool, setup.number),
      columns_(setup.pool, setup.number) {}

std::uint32_t Shard::edge_tag(BlockId parent, std::uint64_t local) const {
  return fold((local ^ seed_) + parent * kMix1);
}

std::uint32_t Shard::alias_tag(std::uint64_t alias) const { return fold(alias ^ seed_); }

std::uint32_t Shard::column_tag(std::uint32_t run, Slot slot) const {
  return fold((std::uint64_t{run} << 32 | slot) ^ seed_);
}

BlockId Shard::find(Slot slot, std::uint64_t alias) const {
  return aliases_.find(alias_tag(alias), [&](BlockId id) {
    const std::uint32_t owner = owner_of(id);
    const Run& run = runs_[owner];
    if (run.columns == 0 && *blocks_.aliases(id) != alias) return false;
    const std::uint32_t offset = id - run.first();
    return real_depth(run, slot) > offset && name(owner, slot, offset) == alias;
  });
}

/// How many of `blocks` the run has from `at` on.
std::uint32_t Shard::common(const Run& run, std::uint32_t at,
                            std::span<const StoredBlock> blocks) const {
  const std::uint64_t* locals = blocks_.locals(run.first()) + at;
  const std::size_t most = std::min<std::size_t>(run.length() - at, blocks.size());
  std::uint32_t same = 0;
  while (same < most && locals[same] == blocks[same].local) ++same;
  return same;
}

void Shard::store(Slot slot, std::uint32_t tier, BlockId parent,
                  std::span<const StoredBlock> blocks) {
  ++event_;
  Cursor cursor{kNone, 0};
  if (parent != kRoot) {
    cursor.run = owner_of(parent);
    cursor.at = parent - runs_[cursor.run].first() + 1;
  }
  while (!blocks.empty()) {
    pinned_ = cursor.run;
    std::uint32_t count = cursor.run == kNone ? 0 : common(runs_[cursor.run], cursor.at, blocks);
    if (count > 0) {
      if (!claim(cursor, count, slot, tier, blocks)) break;
    } else if (const std::uint32_t child = child_of(cursor, blocks[0].local); child != kNone) {
      cursor = {child, 0};
      continue;
    } else {
      count = append(cursor, slot, tier, blocks);
      if (count == 0) count = create(cursor, slot, tier, blocks);
      if (count == 0) break;
    }
    blocks = blocks.subspan(count);
  }
  pinned_ = kNone;
  if (blocks.empty()) return;
  refuse(slot, blocks.size());
  if (cursor.run != kNone) trim(cursor.run);
}

BlockId Shard::follow(std::span<const std::uint64_t> chain) const {
  Cursor cursor{kNone, 0};
  while (!chain.empty()) {
    const std::uint32_t child = child_of(cursor, chain[0]);
    if (child == kNone) return kNone;
    cursor = {child, 0};
    const Run& run = runs_[child];
    const std::uint64_t* locals = blocks_.locals(run.first());
    while (cursor.at < run.length() && cursor.at < chain.size() &&
           locals[cursor.at] == chain[cursor.at]) {
      ++cursor.at;
    }
    chain = chain.subspan(cursor.at);
  }
  return cursor.run == kNone ? kRoot : runs_[cursor.run].first() + cursor.at - 1;
}

void Shard::refuse(Slot slot, std::size_t blocks) {
  counters_.refused_blocks += blocks;
  shed_.shed(slot, blocks);
}

/// The slot holds `count` more blocks from the cursor on, which the run has already. False without
/// memory.
bool Shard::claim(Cursor& cursor, std::uint32_t count, Slot slot, std::uint32_t tier,
                  std::span<const StoredBlock> blocks) {
  if (cursor.at > depth(runs_[cursor.run], slot, tier)) {
    // What the slot holds of a run begins with its first block: a later one begins a run.
    const std::uint32_t upper = split(cursor.run, cursor.at);
    if (upper == kNone) return false;
    cursor = {upper, 0};
    pinned_ = upper;
  }
  Run& run = runs_[cursor.run];
  run.touched = event_;
  if (tier != kScaffoldTier && !set_names(cursor.run, cursor.at, slot, blocks.first(count))) {
    return false;
  }
  const std::uint32_t key = entry_key(slot, tier);
  if (cursor.at + count > depth(run, slot, tier)) {
    bool done = false;
    do {
      const RunChange change(run);
      done = set_depth(run, key, cursor.at + count);
    } while (!done && make_room());
    if (!done) {
      const std::uint32_t held = real_depth(run, slot);
      if (tier != kScaffoldTier) drop_names(cursor.run, slot, held, cursor.at + count);
      return false;
    }
  }
  cursor.at += count;
  if ((run.flags & (Run::kPiece | Run::kHasPiece)) != 0) mend(cursor);
  return true;
}

/// Writes blocks into free memory of a run, names included; how many had room in the table of
/// names.
std::uint32_t Shard::fill(std::uint32_t id, BlockId at, std::span<const StoredBlock> blocks) {
  std::uint64_t* locals = blocks_.locals(at);
  std::uint64_t* names = blocks_.aliases(at);
  std::uint32_t* owners = blocks_.owners(at);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    aliases_.prefetch(alias_tag(blocks[i].alias));
    std::atomic_ref(locals[i]).store(blocks[i].local, kRelaxed);
    names[i] = blocks[i].alias;
    owners[i] = id;
  }
  std::uint32_t done = 0;
  while (done < blocks.size() && insert_alias(blocks[done].alias, at + done)) ++done;
  for (std::size_t i = done; i < blocks.size(); ++i) owners[i] = 0;
  counters_.blocks += done;
  return done;
}

/// Lets the run grow at its end, if the slot holds all of it and there is memory behind it; by how
/// many blocks.
std::uint32_t Shard::append(Cursor& cursor, Slot slot, std::uint32_t tier,
                            std::span<const StoredBlock> blocks) {
  if (cursor.run == kNone) return 0;
  Run& run = runs_[cursor.run];
  const std::uint32_t length = run.length();
  if (cursor.at != length || run.capacity == length || run.columns > 0) return 0;
  if (depth(run, slot, tier) != length) return 0;
  const std::size_t count = std::min<std::size_t>(run.capacity - length, blocks.size());
  const std::uint32_t added = fill(cursor.run, run.first() + length, blocks.first(count));
  if (added == 0) return 0;
  run.touched = event_;
  {
    const RunChange change(run);
    run.set_shape(length + added, run.child_extent());
    set_depth(run, entry_key(slot, tier), length + added);
  }
  cursor.at += added;
  return added;
}

/// A new run after the cursor, which moves to its end; how many blocks it took.
std::uint32_t Shard::create(Cursor& cursor, Slot slot, std::uint32_t tier,
                            std::span<const StoredBlock> blocks) {
  const std::uint32_t id = new_run();
  if (id == kNone) return 0;
  Run& run = runs_[id];
  BlockId parent = kRoot;
  std::uint32_t slack = kSlackMin;
  if (cursor.run != kNone) {
    const Run& before = runs_[cursor.run];
    parent = before.first() + cursor.at - 1;
    // One that comes block by block and has filled its memory goes on doing so.
    if (blocks.size() < kSlackMin) slack = std::clamp(before.length() / 4, kSlackMin, kSlackMax);
  }
  const std::size_t most = std::min<std::size_t>(blocks.size(), kRunBlocksMax);
  const auto wanted =
      static_cast<std::uint32_t>(std::min<std::size_t>(most + slack, kRunBlocksMax));
  std::uint32_t capacity = 0;
  BlockId start = blocks_.allocate(wanted, capacity);
  while (start == kNone && make_room()) start = blocks_.allocate(wanted, capacity);
  if (start == kNone) {
    runs_.free(id);
    return 0;
  }
  const std::uint32_t count = fill(id, start, blocks.first(std::min<std::size_t>(most, capacity)));
  const std::uint32_t tag = edge_tag(parent, blocks[0].local);
  bool linked = count > 0 && edges_.insert(tag, id);
  while (count > 0 && !linked && make_room()) linked = edges_.insert(tag, id);

  runs_.set_start(id, start);
  run.capacity = capacity;
  if (!linked) {
    run.set_shape(count, 0);
    shorten(run, 0);
    blocks_.free(start, capacity);
    runs_.free(id);
    return 0;
  }
  {
    const RunChange change(run);
    run.set_shape(count, 0);
    run.holders.store(1, kRelaxed);
    run.held[0].store(make_entry(entry_key(slot, tier), count), kRelaxed);
    run.parent.store(parent, kRelaxed);
  }
  if (parent != kRoot) adopt(id, parent);
  cursor = {id, count};
  return count;
}

}  // namespace penstock::kv::index
