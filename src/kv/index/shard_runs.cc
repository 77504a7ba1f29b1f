// The life of runs: split, merge, shorten, die, and what goes when memory is short.
#include <algorithm>

#include "base/check.h"
#include "kv/index/shard.h"

namespace penstock::kv::index {
namespace {

/// Of so many leaves that the clock hand meets the coldest goes.
constexpr std::uint32_t kShedSample = 64;

constexpr BlockId to_granule(BlockId id) {
  return (id + BlockArena::kGranule - 1) / BlockArena::kGranule * BlockArena::kGranule;
}

}  // namespace

std::uint32_t Shard::new_run() {
  std::uint32_t id = runs_.allocate();
  while (id == kNone && make_room()) id = runs_.allocate();
  if (id == kNone) return kNone;
  Run& run = runs_[id];
  run.flags = 0;
  run.columns = 0;
  run.capacity = 0;
  run.first_child = run.next = run.previous = kNone;
  run.touched = event_;
  return id;
}

std::uint32_t Shard::child_of(const Cursor& cursor, std::uint64_t local) const {
  BlockId parent = kRoot;
  if (cursor.run != kNone) {
    const Run& run = runs_[cursor.run];
    if (run.child_extent() < cursor.at) return kNone;
    parent = run.first() + cursor.at - 1;
  }
  return edges_.find(edge_tag(parent, local), [&](std::uint32_t id) {
    const Run& child = runs_[id];
    return child.parent.load(kRelaxed) == parent && *blocks_.locals(child.first()) == local;
  });
}

/// Links a run under the run that owns `parent`. Its edge is the caller's.
void Shard::adopt(std::uint32_t child, BlockId parent) {
  Run& run = runs_[owner_of(parent)];
  Run& added = runs_[child];
  added.previous = kNone;
  added.next = run.first_child;
  if (run.first_child != kNone) runs_[run.first_child].previous = child;
  run.first_child = child;
  const std::uint32_t extent = parent - run.first() + 1;
  if (run.child_extent() < extent) run.set_shape(run.length(), extent);
}

void Shard::disown(std::uint32_t child) {
  const Run& gone = runs_[child];
  Run& run = runs_[owner_of(gone.parent.load(kRelaxed))];
  if (gone.previous != kNone) {
    runs_[gone.previous].next = gone.next;
  } else {
    run.first_child = gone.next;
  }
  if (gone.next != kNone) runs_[gone.next].previous = gone.previous;
  run.flags |= Run::kExtentStale;
}

void Shard::refresh_child_extent(Run& run) {
  std::uint32_t extent = 0;
  for (std::uint32_t child = run.first_child; child != kNone; child = runs_[child].next) {
    extent = std::max(extent, runs_[child].parent.load(kRelaxed) - run.first() + 1);
  }
  run.set_shape(run.length(), extent);
  run.flags &= ~Run::kExtentStale;
}

/// The size class of the list that the holders past `at` need (0: none), and the list, or kNone in
/// `list` when there is no memory for it.
std::uint32_t Shard::list_for_upper(const Run& lower, std::uint32_t at, std::uint32_t& list) {
  const std::atomic<Entry>* from = entries(lower);
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < lower.count(); ++i) {
    count += entry_depth(from[i].load(kRelaxed)) > at ? 1 : 0;
  }
  list = 0;
  if (count <= Run::kInline) return 0;
  std::uint32_t size_class = HolderLists::kClassMin;
  while (1U << size_class < count) ++size_class;
  list = lists_.allocate(size_class);
  return size_class;
}

void Shard::move_holders(Run& lower, Run& upper, std::uint32_t at, std::uint32_t list_class,
                         std::uint32_t list) {
  std::atomic<Entry>* from = entries(lower);
  upper.held[0].store(list, kRelaxed);
  upper.holders.store(list_class << 20, kRelaxed);
  std::atomic<Entry>* to = entries(upper);
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < lower.count(); ++i) {
    const Entry entry = from[i].load(kRelaxed);
    if (entry_depth(entry) <= at) continue;
    to[count++].store(make_entry(entry >> 10, entry_depth(entry) - at), kRelaxed);
    from[i].store(make_entry(entry >> 10, at), kRelaxed);
  }
  upper.holders.store(count | list_class << 20, kRelaxed);
}

void Shard::move_children(Run& lower, std::uint32_t upper_id, std::uint32_t at) {
  const BlockId border = lower.first() + at;
  for (std::uint32_t child = lower.first_child; child != kNone;) {
    const std::uint32_t next = runs_[child].next;
    const BlockId parent = runs_[child].parent.load(kRelaxed);
    if (child != upper_id && parent >= border) {
      disown(child);  // still finds the lower run: the owners change below
      Run& upper = runs_[upper_id];
      runs_[child].previous = kNone;
      runs_[child].next = upper.first_child;
      if (upper.first_child != kNone) runs_[upper.first_child].previous = child;
      upper.first_child = child;
    }
    child = next;
  }
}

/// Cuts a run before its block `at`: the blocks stay where they are, the upper ones get a run of
/// their own. Its number, or kNone without memory (then nothing has changed).
std::uint32_t Shard::split(std::uint32_t id, std::uint32_t at) {
  const std::uint32_t upper_id = new_run();
  if (upper_id == kNone) return kNone;
  Run& lower = runs_[id];
  Run& upper = runs_[upper_id];
  const std::uint32_t length = lower.length();
  const BlockId border = lower.first() + at;
  CHECK(at > 0 && at < length);

  const std::uint32_t tag = edge_tag(border - 1, *blocks_.locals(border));
  bool linked = edges_.insert(tag, upper_id);
  while (!linked && make_room()) linked = edges_.insert(tag, upper_id);
  std::uint32_t list = kNone;
  const std::uint32_t list_class = linked ? list_for_upper(lower, at, list) : 0;
  if (list == kNone || (lower.columns > 0 && !split_columns(id, upper_id, at))) {
    if (linked) edges_.erase(tag, upper_id);
    if (list != kNone && list_class > 0) lists_.free(list, list_class);
    runs_.free(upper_id);
    return kNone;
  }

  ++counters_.splits;
  const RunChange change_lower(lower);
  const RunChange change_upper(upper);
  runs_.set_start(upper_id, border);
  const std::uint32_t extent = lower.child_extent();
  upper.set_shape(length - at, extent > at ? extent - at : 0);
  upper.capacity = lower.capacity - at;
  upper.flags = Run::kPiece | (lower.flags & (Run::kHasPiece | Run::kExtentStale));
  upper.touched = lower.touched;
  move_holders(lower, upper, at, list_class, list);
  move_children(lower, upper_id, at);
  for (std::uint32_t i = at; i < length; ++i) {
    blocks_.owners(lower.first())[i] = upper_id;
  }
  lower.set_shape(at, std::min(extent, at));
  lower.capacity = at;
  lower.flags |= Run::kHasPiece;
  upper.parent.store(border - 1, kRelaxed);
  adopt(upper_id, border - 1);
  return upper_id;
}

bool Shard::mergeable(const Run& lower, const Run& upper) const {
  // Other names are kept by run: moving them is not worth it.
  if (lower.columns > 0 || upper.columns > 0) return false;
  const std::uint32_t length = lower.length();
  if (length + upper.length() > kRunBlocksMax) return false;
  for (std::uint32_t i = 0; i < upper.count(); ++i) {
    const std::uint32_t key = entries(upper)[i].load(kRelaxed) >> 10;
    if (depth(lower, key >> 2, key & 3) != length) return false;
  }
  return true;
}

/// Joins a piece with the run before it, if whoever holds some of it holds all of that one. That
/// run's number, or kNone.
std::uint32_t Shard::merge(std::uint32_t id) {
  Run& upper = runs_[id];
  const BlockId border = upper.first();
  const std::uint32_t lower_id = owner_of(border - 1);
  Run& lower = runs_[lower_id];
  if (!mergeable(lower, upper)) return kNone;

  ++counters_.merges;
  const std::uint32_t length = lower.length();
  // First of all: a reader that stands at the end of the lower run must not find the upper one gone
  // and the lower one unchanged.
  const RunChange change_lower(lower);
  const RunChange change_upper(upper);
  edges_.erase(edge_tag(border - 1, *blocks_.locals(border)), id);
  disown(id);
  for (std::uint32_t i = 0; i < upper.count(); ++i) {
    const Entry entry = entries(upper)[i].load(kRelaxed);
    set_depth(lower, entry >> 10, length + entry_depth(entry));
  }
  for (std::uint32_t i = 0; i < upper.length(); ++i) {
    blocks_.owners(border)[i] = lower_id;
  }
  lower.set_shape(length + upper.length(),
                  upper.child_extent() > 0 ? length + upper.child_extent() : lower.child_extent());
  lower.capacity = length + upper.capacity;
  lower.flags =
      (lower.flags & ~Run::kHasPiece) | Run::kExtentStale | (upper.flags & Run::kHasPiece);
  while (upper.first_child != kNone) {
    const std::uint32_t child = upper.first_child;
    upper.first_child = runs_[child].next;
    adopt(child, runs_[child].parent.load(kRelaxed));
  }
  free_list(upper);
  upper.holders.store(0, kRelaxed);
  upper.parent.store(kDead, kRelaxed);
  runs_.free(id);
  return lower_id;
}

/// After what a slot holds has grown at the cursor: joins pieces that need not be apart any more.
void Shard::mend(Cursor& cursor) {
  if ((runs_[cursor.run].flags & Run::kHasPiece) != 0) {
    const Run& run = runs_[cursor.run];
    merge(owner_of(run.first() + run.length()));
  }
  while ((runs_[cursor.run].flags & Run::kPiece) != 0) {
    const BlockId first = runs_[cursor.run].first();
    const std::uint32_t lower = merge(cursor.run);
    if (lower == kNone) return;
    cursor = {lower, cursor.at + (first - runs_[lower].first())};
  }
}

/// Takes away what nobody holds at a run's end, and the run with its last block, and so upwards.
void Shard::trim(std::uint32_t id) {
  while (id != pinned_) {
    Run& run = runs_[id];
    const std::uint32_t length = run.length();
    std::uint32_t needed = depth_max(run, length);
    if (needed < length && run.first_child != kNone) {
      if ((run.flags & Run::kExtentStale) != 0) refresh_child_extent(run);
      needed = std::max(needed, run.child_extent());
    }
    if (needed == length) return;
    if (needed > 0) {
      shorten(run, needed);
      return;
    }
    const BlockId parent = run.parent.load(kRelaxed);
    die(id);
    if (parent == kRoot) return;
    id = owner_of(parent);
  }
}

void Shard::shorten(Run& run, std::uint32_t length) {
  const std::uint32_t old = run.length();
  const std::uint64_t* names = blocks_.aliases(run.first());
  std::uint32_t* owners = blocks_.owners(run.first());
  for (std::uint32_t i = length; i < old; ++i) aliases_.prefetch(alias_tag(names[i]));
  for (std::uint32_t i = length; i < old; ++i) {
    aliases_.erase(alias_tag(names[i]), run.first() + i);
    owners[i] = 0;
  }
  counters_.blocks -= old - length;
  {
    const RunChange change(run);
    run.set_shape(length, std::min(run.child_extent(), length));
  }
  if (length > 0) release_memory(run, length);
}

void Shard::die(std::uint32_t id) {
  Run& run = runs_[id];
  CHECK(run.first_child == kNone && run.columns == 0);
  const BlockId parent = run.parent.load(kRelaxed);
  edges_.erase(edge_tag(parent, *blocks_.locals(run.first())), id);
  if (parent != kRoot) disown(id);
  shorten(run, 0);
  {
    const RunChange change(run);
    run.parent.store(kDead, kRelaxed);
    free_list(run);
    run.holders.store(0, kRelaxed);
  }
  release_memory(run, 0);
  runs_.free(id);
}

/// Gives back the granules behind the run's first `length` blocks. A granule that the run shares
/// with the piece before it goes to that one.
void Shard::release_memory(Run& run, std::uint32_t length) {
  const BlockId first = run.first();
  const BlockId keep = to_granule(first + length);
  const BlockId end = first + run.capacity;
  if (length == 0 && (run.flags & Run::kPiece) != 0) {
    Run& before = runs_[owner_of(first - 1)];
    before.capacity = before.capacity + (keep - first);
    before.flags &= ~Run::kHasPiece;
  }
  run.capacity = keep - first;
  if (keep < end) blocks_.free(keep, end - keep);
}

/// Drops the coldest of some leaves. False when there is nothing to drop.
bool Shard::make_room() {
  std::uint32_t coldest = kNone;
  std::uint32_t age_max = 0;
  std::uint32_t seen = 0;
  for (std::uint32_t step = 0; step < runs_.end() && seen < kShedSample; ++step) {
    clock_hand_ = clock_hand_ + 1 < runs_.end() ? clock_hand_ + 1 : 0;
    const Run& run = runs_[clock_hand_];
    if (run.dead() || run.first_child != kNone || clock_hand_ == pinned_) continue;
    ++seen;
    const std::uint32_t age = event_ - run.touched;
    if (coldest == kNone || age > age_max) {
      coldest = clock_hand_;
      age_max = age;
    }
  }
  if (coldest == kNone) return false;
  shed(coldest);
  return true;
}

void Shard::shed(std::uint32_t id) {
  Run& run = runs_[id];
  ++counters_.shed_runs;
  while (run.count() > 0) {
    const Entry entry = entries(run)[run.count() - 1].load(kRelaxed);
    if ((entry >> 10 & 3) != kScaffoldTier) {
      counters_.shed_memberships += entry_depth(entry);
      shed_.shed(entry >> 12, entry_depth(entry));
    }
    release(id, entry >> 12, entry >> 10 & 3, 0);
  }
  trim(id);
}

}  // namespace penstock::kv::index
