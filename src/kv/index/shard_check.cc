// What must always be true of a shard.
#include "base/check.h"
#include "kv/index/shard.h"

namespace penstock::kv::index {
Shard::RunView Shard::view(const Run& run) const {
  const std::size_t length = run.length();
  return {.locals = {blocks_.locals(run.first()), length},
          .aliases = {blocks_.aliases(run.first()), length},
          .entries = {entries(run), run.count()}};
}

void Shard::check_run(std::uint32_t id) const {
  const Run& run = runs_[id];
  const std::uint32_t length = run.length();
  CHECK(length > 0 && length <= run.capacity && run.child_extent() <= length);
  CHECK(run.count() > 0 || run.first_child != kNone);  // else nobody needs it
  std::uint32_t needed = depth_max(run, length);
  const BlockId parent = run.parent.load(kRelaxed);
  const std::uint64_t* locals = blocks_.locals(run.first());
  CHECK_EQ(edges_.find(edge_tag(parent, locals[0]), [&](std::uint32_t v) { return v == id; }), id);
  for (std::uint32_t child = run.first_child; child != kNone; child = runs_[child].next) {
    const std::uint32_t offset = runs_[child].parent.load(kRelaxed) - run.first();
    CHECK_LT(offset, run.child_extent());
    needed = std::max(needed, offset + 1);
    // A prompt goes one way only.
    CHECK(offset + 1 == length || locals[offset + 1] != *blocks_.locals(runs_[child].first()));
  }
  CHECK_EQ(needed, length);
  for (std::uint32_t i = 0; i < length; ++i) {
    const BlockId block = run.first() + i;
    CHECK_EQ(owner_of(block), id);
    const std::uint32_t tag = alias_tag(*blocks_.aliases(block));
    CHECK_EQ(aliases_.find(tag, [&](BlockId v) { return v == block; }), block);
  }
  std::uint32_t columns = 0;
  Slot last = kSlotsLimit;
  for (std::uint32_t i = 0; i < run.count(); ++i) {
    const Entry entry = entries(run)[i].load(kRelaxed);
    CHECK_LE(entry_depth(entry), length);
    CHECK(i == 0 || entries(run)[i - 1].load(kRelaxed) >> 10 < entry >> 10);
    if (entry >> 12 != last && column(id, entry >> 12) != kNone) ++columns;
    last = entry >> 12;
  }
  CHECK_EQ(columns, run.columns);
}

void Shard::check() const {
  std::uint64_t runs = 0;
  std::uint64_t blocks = 0;
  std::uint64_t columns = 0;
  for_each_run([&](std::uint32_t id, const Run& run) {
    ++runs;
    blocks += run.length();
    columns += run.columns;
    check_run(id);
  });
  CHECK_EQ(runs, runs_.in_use());
  CHECK_EQ(blocks, counters_.blocks);
  CHECK_EQ(runs, edges_.size());
  CHECK_EQ(columns, columns_.size());
}

}  // namespace penstock::kv::index
