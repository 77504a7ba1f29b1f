// Who holds how much of a run: entries sorted by (slot, tier), in the run's head or in a list.
#include <algorithm>

#include "kv/index/shard.h"

namespace penstock::kv::index {
namespace {

/// Up to this many entries a plain look at each is faster than halving.
constexpr std::uint32_t kScanMax = 12;

}  // namespace

std::atomic<Entry>* Shard::entries(const Run& run) const {
  auto& held = const_cast<Run&>(run).held;
  return run.list_class() == 0 ? held : lists_.words(held[0].load(kRelaxed));
}

/// Of the first entry whose key is not less than `key`.
std::uint32_t Shard::position(const Run& run, std::uint32_t key) const {
  const std::atomic<Entry>* list = entries(run);
  std::uint32_t low = 0;
  std::uint32_t high = run.count();
  while (high - low > kScanMax) {
    const std::uint32_t middle = (low + high) / 2;
    if (list[middle].load(kRelaxed) >> 10 < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  while (low < high && list[low].load(kRelaxed) >> 10 < key) ++low;
  return low;
}

std::uint32_t Shard::depth(const Run& run, Slot slot, std::uint32_t tier) const {
  const std::uint32_t key = entry_key(slot, tier);
  const std::uint32_t at = position(run, key);
  if (at == run.count()) return 0;
  const Entry entry = entries(run)[at].load(kRelaxed);
  return entry >> 10 == key ? entry_depth(entry) : 0;
}

std::uint32_t Shard::real_depth(const Run& run, Slot slot) const {
  const std::atomic<Entry>* list = entries(run);
  std::uint32_t deepest = 0;
  for (std::uint32_t at = position(run, entry_key(slot, 0)); at < run.count(); ++at) {
    const Entry entry = list[at].load(kRelaxed);
    if (entry >> 10 >= entry_key(slot, kScaffoldTier)) break;
    deepest = std::max(deepest, entry_depth(entry));
  }
  return deepest;
}

/// The deepest anybody holds, or `enough` as soon as somebody holds that much.
std::uint32_t Shard::depth_max(const Run& run, std::uint32_t enough) const {
  const std::atomic<Entry>* list = entries(run);
  std::uint32_t deepest = 0;
  for (std::uint32_t at = 0; at < run.count(); ++at) {
    deepest = std::max(deepest, entry_depth(list[at].load(kRelaxed)));
    if (deepest >= enough) return enough;
  }
  return deepest;
}

/// Depth 0 takes the entry out. False without memory. The caller has a RunChange.
bool Shard::set_depth(Run& run, std::uint32_t key, std::uint32_t depth) {
  const std::uint32_t at = position(run, key);
  std::atomic<Entry>* list = entries(run);
  const bool there = at < run.count() && list[at].load(kRelaxed) >> 10 == key;
  if (depth == 0) {
    if (there) erase_entry(run, at);
    return true;
  }
  if (!there) return insert_entry(run, at, make_entry(key, depth));
  list[at].store(make_entry(key, depth), kRelaxed);
  return true;
}

bool Shard::insert_entry(Run& run, std::uint32_t at, Entry entry) {
  const std::uint32_t count = run.count();
  std::uint32_t size_class = run.list_class();
  const std::uint32_t room = size_class == 0 ? Run::kInline : 1U << size_class;
  std::atomic<Entry>* from = entries(run);
  if (count < room) {
    for (std::uint32_t i = count; i > at; --i) from[i].store(from[i - 1].load(kRelaxed), kRelaxed);
    from[at].store(entry, kRelaxed);
    run.holders.store((count + 1) | size_class << 20, kRelaxed);
    return true;
  }
  const std::uint32_t next_class = std::max(HolderLists::kClassMin, size_class + 1);
  if (next_class > HolderLists::kClassMax) return false;
  const std::uint32_t handle = lists_.allocate(next_class);
  if (handle == kNone) return false;
  std::atomic<Entry>* to = lists_.words(handle);
  for (std::uint32_t i = 0; i < at; ++i) to[i].store(from[i].load(kRelaxed), kRelaxed);
  to[at].store(entry, kRelaxed);
  for (std::uint32_t i = at; i < count; ++i) to[i + 1].store(from[i].load(kRelaxed), kRelaxed);
  free_list(run);
  run.held[0].store(handle, kRelaxed);
  run.holders.store((count + 1) | next_class << 20, kRelaxed);
  return true;
}

void Shard::erase_entry(Run& run, std::uint32_t at) {
  const std::uint32_t count = run.count() - 1;
  const std::uint32_t size_class = run.list_class();
  std::atomic<Entry>* list = entries(run);
  for (std::uint32_t i = at; i < count; ++i) list[i].store(list[i + 1].load(kRelaxed), kRelaxed);
  run.holders.store(count | size_class << 20, kRelaxed);
  if (size_class == 0) return;
  // Shrinks late, so that a holder that comes and goes does not move the list each time.
  const bool fits_inline = count <= Run::kInline - 2;
  if (!fits_inline && (size_class == HolderLists::kClassMin || count > 1U << (size_class - 2))) {
    return;
  }
  const std::uint32_t old_handle = run.held[0].load(kRelaxed);
  if (fits_inline) {
    for (std::uint32_t i = 0; i < count; ++i) run.held[i].store(list[i].load(kRelaxed), kRelaxed);
    run.holders.store(count, kRelaxed);
  } else {
    const std::uint32_t handle = lists_.allocate(size_class - 1);
    if (handle == kNone) return;
    std::atomic<Entry>* to = lists_.words(handle);
    for (std::uint32_t i = 0; i < count; ++i) to[i].store(list[i].load(kRelaxed), kRelaxed);
    run.held[0].store(handle, kRelaxed);
    run.holders.store(count | (size_class - 1) << 20, kRelaxed);
  }
  lists_.free(old_handle, size_class);
}

/// The memory only: count and class are left as they are.
void Shard::free_list(Run& run) {
  if (run.list_class() != 0) lists_.free(run.held[0].load(kRelaxed), run.list_class());
}

}  // namespace penstock::kv::index
