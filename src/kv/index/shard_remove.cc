// How blocks go: by their names, by slot, and what that leaves.
#include <algorithm>

#include "base/check.h"
#include "kv/index/shard.h"

namespace penstock::kv::index {
/// Engines remove a chain's blocks one after the other, mostly leaf first: once the first is found,
/// the others are where they must be, and only their names are compared.
std::size_t Shard::remove(Slot slot, std::uint32_t tier, std::span<const std::uint64_t> aliases) {
  std::size_t done = 0;
  BlockId guess = kNone;  // where the next one is if it goes on as it has begun
  while (done < aliases.size()) {
    BlockId at = kNone;
    if (guess != kNone) {
      const std::uint32_t owner = owner_of(guess);
      if (name(owner, slot, guess - runs_[owner].first()) == aliases[done]) at = guess;
    }
    if (at == kNone) at = find(slot, aliases[done]);
    if (at == kNone) return done;
    const std::uint32_t id = owner_of(at);
    const Run& run = runs_[id];
    const std::uint32_t held = depth(run, slot, tier);
    std::uint32_t from = at - run.first();
    std::uint32_t to = from + 1;
    ++done;
    if (from >= held) {  // not in this tier
      ++counters_.unknown_removals;
      guess = kNone;
      continue;
    }
    const auto next_is = [&](std::uint32_t offset) {
      return done < aliases.size() && name(id, slot, offset) == aliases[done];
    };
    while (from > 0 && next_is(from - 1)) --from, ++done;
    if (from + 1 == to) {
      while (to < held && next_is(to)) ++to, ++done;
    }
    guess = from == 0 ? run.parent.load(kRelaxed) : kNone;
    // Dropping may let the parent die as well, though not while the slot holds it.
    if (guess == kRoot || (guess != kNone && !holds(guess, slot, tier))) guess = kNone;
    drop(id, slot, tier, from, to);
  }
  return done;
}

bool Shard::holds(BlockId block, Slot slot, std::uint32_t tier) const {
  const Run& run = runs_[owner_of(block)];
  return depth(run, slot, tier) > block - run.first();
}

/// The slot no longer holds blocks [from, to) of a run.
void Shard::drop(std::uint32_t id, Slot slot, std::uint32_t tier, std::uint32_t from,
                 std::uint32_t to) {
  const std::uint32_t held = depth(runs_[id], slot, tier);
  std::uint32_t upper = kNone;
  if (to < held) {
    pinned_ = id;
    upper = split(id, to);
    pinned_ = kNone;
    // Without memory for the split it loses what lies behind the hole too: less is known, nothing
    // wrong.
    if (upper == kNone) {
      counters_.shed_memberships += held - to;
      shed_.shed(slot, held - to);
    }
  }
  release(id, slot, tier, from);
  trim(id);
  // The lower part may now fit what lies before it, the upper part what lies behind.
  for (const std::uint32_t part : {id, upper}) {
    if (part == kNone || runs_[part].dead()) continue;
    Cursor cursor{part, 0};
    mend(cursor);
  }
}

/// Lowers what the slot holds of a run to its first `depth` blocks.
void Shard::release(std::uint32_t id, Slot slot, std::uint32_t tier, std::uint32_t depth) {
  Run& run = runs_[id];
  const std::uint32_t before = run.columns > 0 ? real_depth(run, slot) : 0;
  {
    const RunChange change(run);
    set_depth(run, entry_key(slot, tier), depth);
  }
  if (run.columns > 0) drop_names(id, slot, real_depth(run, slot), before);
}

void Shard::clear(Slot slot, std::uint32_t first_tier) {
  for (std::uint32_t id = 0; id < runs_.end(); ++id) {
    const Run& run = runs_[id];
    if (run.dead()) continue;
    const std::uint32_t at = position(run, entry_key(slot, first_tier));
    if (at == run.count() || entries(run)[at].load(kRelaxed) >> 12 != slot) continue;
    for (std::uint32_t tier = first_tier; tier <= kScaffoldTier; ++tier) release(id, slot, tier, 0);
    trim(id);
    Cursor cursor{id, 0};
    if (!run.dead() && (run.flags & (Run::kPiece | Run::kHasPiece)) != 0) mend(cursor);
  }
}

}  // namespace penstock::kv::index
