#include "kv/prefix_index.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <thread>

#include "base/cache_line.h"
#include "base/check.h"
#include "kv/index/page_pool.h"
#include "kv/index/shard.h"
#include "kv/prefix_index_state.h"

namespace penstock::kv {
namespace {

using index::kRelaxed;
constexpr std::size_t kHints = 1U << 16;
/// Hashes of a prompt that are fetched at once, in case they have left the cache since they were
/// made: one after the other they would take longer than all else.
constexpr std::size_t kFetchedAtOnce = 192;
constexpr std::uint64_t kMix = 0x9E3779B97F4A7C15;
/// A reader turned away so often asks the shard's writers to stand back, which they do for at most
/// so many turns a event.
constexpr unsigned kPatience = 16;
constexpr unsigned kStandBackMax = 2000;

std::size_t growing_budget(const PrefixIndex::Options& options) {
  return options.budget_bytes > 2 * kHints ? options.budget_bytes - kHints
                                           : options.budget_bytes / 2;
}

}  // namespace

namespace {

/// A shard in a writer's hands.
class Writing {
 public:
  explicit Writing(index::Shard& shard) : shard_(shard) {
    shard_.lock.lock();
    for (unsigned i = 0; shard.impatient_readers.load(kRelaxed) > 0 && i < kStandBackMax; ++i) {
      shard_.lock.unlock();
      std::this_thread::yield();
      shard_.lock.lock();
    }
  }
  ~Writing() { shard_.lock.unlock(); }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

 private:
  index::Shard& shard_;
};

}  // namespace

PrefixIndex::PrefixIndex(Options options)
    : options_(std::move(options)),
      states_(new SlotState[options_.slots_max]),
      shed_(std::make_unique<Shed>(states_.get())),
      pool_(std::make_unique<index::PagePool>(growing_budget(options_), options_.shards)),
      hints_(new std::atomic<std::uint8_t>[kHints]) {
  CHECK(options_.shards >= 1 && options_.shards <= 256 && std::has_single_bit(options_.shards));
  CHECK_LE(options_.slots_max, index::kSlotsLimit);
  for (std::size_t i = 0; i < kHints; ++i) hints_[i].store(0, kRelaxed);
  for (std::size_t i = 0; i < options_.shards; ++i) {
    shards_.push_back(std::make_unique<index::Shard>(
        index::Shard::Setup{.pool = *pool_, .shed = *shed_, .number = i, .seed = options_.seed}));
  }
}

PrefixIndex::~PrefixIndex() = default;

bool PrefixIndex::accept(Slot slot) {
  if (slot >= options_.slots_max) {
    slots_refused_.fetch_add(1, kRelaxed);
    return false;
  }
  Slot end = slots_.load(kRelaxed);
  while (slot >= end && !slots_.compare_exchange_weak(end, slot + 1, kRelaxed)) {
  }
  return true;
}

std::size_t PrefixIndex::root_shard(std::uint64_t local) const {
  const std::uint64_t mixed = ((local ^ options_.seed) * kMix) >> 32;
  return (mixed * options_.shards) >> 32;
}

/// The shard in which the slot's block of this name probably is.
std::size_t PrefixIndex::hint(Slot slot, std::uint64_t alias) const {
  const SlotState& state = states_[slot];
  if (state.last_alias.load(kRelaxed) == alias) return state.last_shard.load(kRelaxed);
  return hints_[(alias * kMix) >> 48].load(kRelaxed);
}

void PrefixIndex::set_hint(std::uint64_t alias, std::size_t shard) const {
  std::atomic<std::uint8_t>& hint = hints_[(alias * kMix) >> 48];
  if (hint.load(kRelaxed) != shard) hint.store(static_cast<std::uint8_t>(shard), kRelaxed);
}

void PrefixIndex::set_last(Slot slot, std::optional<std::uint64_t> parent, std::uint64_t alias,
                           std::size_t shard) {
  SlotState& state = states_[slot];
  const std::uint64_t before = state.last_alias.load(kRelaxed);
  if (parent != before) set_hint(before, state.last_shard.load(kRelaxed));
  state.last_alias.store(alias, kRelaxed);
  state.last_shard.store(static_cast<std::uint8_t>(shard), kRelaxed);
}

void PrefixIndex::advance(Slot slot, Position at) {
  if (at == Position{}) return;
  states_[slot].epoch.store(at.epoch, kRelaxed);
  states_[slot].sequence.store(at.sequence, kRelaxed);
}

bool PrefixIndex::stored(Slot slot, Tier tier, std::optional<std::uint64_t> parent,
                         std::span<const StoredBlock> blocks, Position at) {
  if (!accept(slot)) return true;
  const auto in_tier = static_cast<std::uint32_t>(tier);
  if (!parent) {
    if (blocks.empty()) {
      advance(slot, at);
      return true;
    }
    const std::size_t number = root_shard(blocks[0].local);
    const Writing writing(*shards_[number]);
    shards_[number]->store(slot, in_tier, index::kRoot, blocks);
    set_last(slot, parent, blocks.back().alias, number);
    advance(slot, at);
    return true;
  }
  const std::size_t first = hint(slot, *parent);
  for (std::size_t step = 0; step < shards_.size(); ++step) {
    const std::size_t number = first ^ step;  // a power of two of them: each comes up once
    index::Shard& shard = *shards_[number];
    const Writing writing(shard);
    const index::BlockId block = shard.find(slot, *parent);
    if (block == index::kNone) continue;
    shard.store(slot, in_tier, block, blocks);
    if (step > 0) set_hint(*parent, number);
    if (!blocks.empty()) set_last(slot, parent, blocks.back().alias, number);
    advance(slot, at);
    return true;
  }
  parent_unknown_.fetch_add(1, kRelaxed);
  advance(slot, at);
  return false;
}

void PrefixIndex::removed(Slot slot, Tier tier, std::span<const std::uint64_t> aliases,
                          Position at) {
  if (!accept(slot)) return;
  while (!aliases.empty()) {
    const std::size_t first = hint(slot, aliases[0]);
    std::size_t done = 0;
    for (std::size_t step = 0; step < shards_.size() && done == 0; ++step) {
      index::Shard& shard = *shards_[first ^ step];
      const Writing writing(shard);
      done = shard.remove(slot, static_cast<std::uint32_t>(tier), aliases);
    }
    if (done == 0) {
      unknown_removals_.fetch_add(1, kRelaxed);
      done = 1;
    }
    aliases = aliases.subspan(done);
  }
  advance(slot, at);
}

void PrefixIndex::cleared(Slot slot, Position at) {
  if (!accept(slot)) return;
  for (const auto& shard : shards_) {
    const Writing writing(*shard);
    shard->clear(slot);
  }
  states_[slot].shed.store(0, kRelaxed);
  advance(slot, at);
}

std::size_t PrefixIndex::match(std::span<const std::uint64_t> locals,
                               std::span<std::uint32_t> depths, TierSet tiers) const {
  const std::span<std::uint32_t> out = depths.first(std::min<std::size_t>(depths.size(), slots()));
  std::fill(out.begin(), out.end(), 0);
  if (locals.empty()) return out.size();
  prefetch_bytes(locals.data(), locals.first(std::min(kFetchedAtOnce, locals.size())).size_bytes());
  index::Shard& shard = *shards_[root_shard(locals[0])];
  if (shard.match(locals, out, tiers)) return out.size();
  bool impatient = false;
  for (unsigned attempt = 1;; ++attempt) {
    std::fill(out.begin(), out.end(), 0);
    if (shard.match(locals, out, tiers)) break;
    if (attempt < kPatience) continue;
    if (!impatient) shard.impatient_readers.fetch_add(1, kRelaxed);
    impatient = true;
    std::this_thread::yield();  // the writer may wait for this core
  }
  if (impatient) shard.impatient_readers.fetch_sub(1, kRelaxed);
  return out.size();
}

void PrefixIndex::match(std::span<const std::uint64_t> locals, const TierDepths& depths) const {
  match(locals, depths.device, kDeviceOnly);
  match(locals, depths.host, kDeviceAndHost);
  match(locals, depths.disk, kAllTiers);
}

PrefixIndex::Position PrefixIndex::position(Slot slot) const {
  if (slot >= options_.slots_max) return {};
  return {states_[slot].epoch.load(kRelaxed), states_[slot].sequence.load(kRelaxed)};
}

std::uint64_t PrefixIndex::shed_blocks(Slot slot) const {
  return slot < options_.slots_max ? states_[slot].shed.load(kRelaxed) : 0;
}

PrefixIndex::Stats PrefixIndex::stats() const {
  Stats sum;
  sum.parent_unknown = parent_unknown_.load(kRelaxed);
  sum.unknown_removals = unknown_removals_.load(kRelaxed);
  sum.slots_refused = slots_refused_.load(kRelaxed);
  for (const auto& shard : shards_) {
    const Writing writing(*shard);
    const index::ShardCounters& of = shard->counters();
    sum.blocks += of.blocks;
    sum.runs += shard->runs();
    sum.splits += of.splits;
    sum.merges += of.merges;
    sum.unknown_removals += of.unknown_removals;
    sum.shed_runs += of.shed_runs;
    sum.shed_memberships += of.shed_memberships;
    sum.refused_blocks += of.refused_blocks;
  }
  const std::size_t fixed =
      options_.budget_bytes - std::min(options_.budget_bytes, growing_budget(options_));
  sum.memory_bytes = fixed + pool_->used_bytes();
  sum.budget_bytes = options_.budget_bytes;
  return sum;
}

void PrefixIndex::check() const {
  for (const auto& shard : shards_) {
    const Writing writing(*shard);
    shard->check();
  }
}

}  // namespace penstock::kv
