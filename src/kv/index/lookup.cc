// The readers' side of a shard.
#include <algorithm>
#include <array>
#include <bit>

#include "base/cache_line.h"
#include "kv/index/shard.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_WORD_BY_WORD 1
#endif
#endif

namespace penstock::kv::index {
namespace {

/// Runs of one path whose versions are looked at again together at the end.
constexpr std::uint32_t kPathMax = 256;
/// Blocks of a run fetched before its length is known.
constexpr std::size_t kPrefetchBlocks = 128;

/// How many of the first `most` words are equal. `theirs` may change meanwhile: the caller looks at
/// the run's version afterwards.
std::uint32_t common_words(const std::uint64_t* theirs, const std::uint64_t* ours,
                           std::uint32_t most) {
  std::uint32_t at = 0;
#if defined(__SSE2__) && !defined(PENSTOCK_WORD_BY_WORD)
  const auto pair = [&](std::uint32_t i) {
    return _mm_cmpeq_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(theirs + i)),
                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(ours + i)));
  };
  for (; at + 8 <= most; at += 8) {
    const __m128i low = _mm_and_si128(pair(at), pair(at + 2));
    const __m128i high = _mm_and_si128(pair(at + 4), pair(at + 6));
    if (_mm_movemask_epi8(_mm_and_si128(low, high)) != 0xFFFF) break;
  }
#endif
  while (at < most) {
    auto& word = const_cast<std::uint64_t&>(theirs[at]);
    if (std::atomic_ref(word).load(kRelaxed) != ours[at]) break;
    ++at;
  }
  return at;
}

/// A consistent copy of what readers need of a run.
struct Head {
  std::uint32_t version;
  BlockId start;
  BlockId parent;
  std::uint32_t length;
  std::uint32_t child_extent;
  std::uint32_t count;
  std::uint32_t list_class;
  std::array<Entry, Run::kInline> held;
};

bool read_head(const Run& run, Head& head) {
  head.version = run.version.load(std::memory_order_acquire);
  if ((head.version & 1) != 0) return false;
  head.start = run.start.load(kRelaxed);
  head.parent = run.parent.load(kRelaxed);
  const std::uint32_t shape = run.shape.load(kRelaxed);
  const std::uint32_t holders = run.holders.load(kRelaxed);
  for (std::uint32_t i = 0; i < Run::kInline; ++i) head.held[i] = run.held[i].load(kRelaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  head.length = shape & 0xFFFF;
  head.child_extent = shape >> 16;
  head.count = holders & 0xFFFFF;
  head.list_class = holders >> 20;
  return run.version.load(kRelaxed) == head.version;
}

std::uint32_t load(const Entry& entry) { return entry; }
std::uint32_t load(const std::atomic<Entry>& entry) { return entry.load(kRelaxed); }

/// Who is credited, and with what: holders of all `base` blocks so far and of some of the next
/// `matched`.
struct Credit {
  std::uint32_t base;
  std::uint32_t matched;
  TierSet tiers;
  std::span<std::uint32_t> depths;
  bool anybody = false;  // holds all of them

  void one(Entry entry) {
    const Slot slot = entry >> 12;
    if (slot >= depths.size()) return;
    const std::uint32_t now = depths[slot];
    const std::uint32_t reached = base + std::min(entry_depth(entry), matched);
    // A slot may be in several tiers here; before this run nobody was deeper than `base`.
    const bool counts = (tiers >> (entry >> 10 & 3) & 1) != 0 && now >= base;
    depths[slot] = counts ? std::max(now, reached) : now;
    anybody |= counts && reached == base + matched;
  }

#if defined(__SSE2__) && !defined(PENSTOCK_WORD_BY_WORD)
  /// The same for four entries, if they are of four slots in a row and of one tier, as those of a
  /// prefix that all workers hold are; else false, and nothing is done.
  bool four(const void* entries) {
    const __m128i all = _mm_loadu_si128(static_cast<const __m128i*>(entries));
    const auto first = static_cast<std::uint32_t>(_mm_cvtsi128_si32(all));
    const auto key = static_cast<int>(first >> 10);
    const __m128i row = _mm_add_epi32(_mm_set1_epi32(key), _mm_setr_epi32(0, 4, 8, 12));
    const __m128i in_row = _mm_cmpeq_epi32(_mm_srli_epi32(all, 10), row);
    const Slot slot = first >> 12;
    if (_mm_movemask_epi8(in_row) != 0xFFFF || slot + 4 > depths.size()) return false;
    if ((tiers >> (key & 3) & 1) == 0) return true;
    auto* out = reinterpret_cast<__m128i*>(depths.data() + slot);
    const __m128i now = _mm_loadu_si128(out);
    const __m128i held = _mm_add_epi32(_mm_and_si128(all, _mm_set1_epi32(1023)), _mm_set1_epi32(1));
    const __m128i most = _mm_set1_epi32(static_cast<int>(matched));
    const __m128i from = _mm_set1_epi32(static_cast<int>(base));
    const __m128i reached = _mm_add_epi32(from, _mm_min_epi16(held, most));
    const __m128i out_of_it = _mm_cmpgt_epi32(from, now);
    const __m128i stays = _mm_or_si128(out_of_it, _mm_cmpgt_epi32(now, reached));
    _mm_storeu_si128(out,
                     _mm_or_si128(_mm_and_si128(stays, now), _mm_andnot_si128(stays, reached)));
    const __m128i not_all = _mm_or_si128(out_of_it, _mm_cmpgt_epi32(most, held));
    anybody |= _mm_movemask_epi8(not_all) != 0xFFFF;
    return true;
  }
#else
  static bool four(const void*) { return false; }
#endif

  template <class Word>
  bool all(const Word* held, std::uint32_t count) {
    std::uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
      if (four(held + i)) continue;
      for (std::uint32_t j = i; j < i + 4; ++j) one(load(held[j]));
    }
    for (; i < count; ++i) one(load(held[i]));
    return anybody;
  }
};

}  // namespace

/// One walk from the root.
struct Shard::Walker {
  // The arrays stay as they are: clearing them would cost as much as a step.
  Walker(const Shard& in, std::span<const std::uint64_t> chain, std::span<std::uint32_t> out,
         TierSet in_tiers)
      : shard(in), locals(chain), depths(out), tiers(in_tiers) {}

  const Shard& shard;
  std::span<const std::uint64_t> locals;
  std::span<std::uint32_t> depths;
  TierSet tiers;
  std::array<std::uint32_t, kPathMax> path;
  std::array<std::uint32_t, kPathMax> versions;
  std::uint32_t steps = 0;
  std::uint32_t base = 0;  // blocks matched so far
  Head head;
  bool torn = false;

  /// The run that goes on with the next block after `parent`, its head in `head`; kNone if none.
  std::uint32_t enter(BlockId parent) {
    const std::uint64_t local = locals[base];
    const std::uint32_t tag = shard.edge_tag(parent, local);
    return shard.edges_.read(tag, [&](std::uint32_t id) {
      __builtin_prefetch(&shard.runs_[id]);  // before the many that need not be here first
      prefetch(shard.runs_.start_hint(id).load(kRelaxed));
      if (!read_head(shard.runs_[id], head)) {
        torn = true;
        return true;
      }
      if (head.parent != parent || head.length == 0) return false;
      const std::uint64_t* first = shard.blocks_.read_locals(head.start);
      if (first == nullptr) {
        torn = true;
        return true;
      }
      return std::atomic_ref(const_cast<std::uint64_t&>(*first)).load(kRelaxed) == local;
    });
  }

  void prefetch(BlockId start) const {
    const std::uint64_t* first = shard.blocks_.read_locals(start);
    const std::size_t most = std::min(kPrefetchBlocks, locals.size() - base);
    prefetch_bytes(first, most * sizeof *first);
  }

  [[nodiscard]] bool unchanged() const {
    std::atomic_thread_fence(std::memory_order_acquire);
    for (std::uint32_t i = 0; i < steps; ++i) {
      if (shard.runs_[path[i]].version.load(kRelaxed) != versions[i]) return false;
    }
    return true;
  }

  /// Takes in the run `id`, whose head is read; how many blocks of it match, 0 when torn.
  std::uint32_t take(std::uint32_t id, bool& goes_on) {
    // A longer path is looked at in parts: the answer is then true for each part at some moment.
    if (steps == kPathMax) {
      if (!unchanged()) return 0;
      steps = 0;
    }
    path[steps] = id;
    versions[steps++] = head.version;
    const std::uint64_t* theirs = shard.blocks_.read_locals(head.start);
    if (theirs == nullptr) return 0;
    const auto most =
        static_cast<std::uint32_t>(std::min<std::size_t>(head.length, locals.size() - base));
    const std::uint32_t matched = common_words(theirs, locals.data() + base, most);
    Credit credit{.base = base, .matched = matched, .tiers = tiers, .depths = depths};
    if (head.list_class == 0) {
      goes_on = credit.all(head.held.data(), std::min(head.count, Run::kInline));
    } else {
      const std::atomic<Entry>* list = shard.lists_.words(head.held[0]);
      // Unchanged, this is the list that the head spoke of, as long as its count says.
      std::atomic_thread_fence(std::memory_order_acquire);
      if (list == nullptr || shard.runs_[id].version.load(kRelaxed) != head.version) return 0;
      goes_on = credit.all(list, head.count);
    }
    return matched;
  }

  bool walk() {
    std::uint32_t id = enter(kRoot);
    while (id != kNone && !torn) {
      bool goes_on = false;
      const std::uint32_t matched = take(id, goes_on);
      if (matched == 0) return false;
      base += matched;
      if (!goes_on || base == locals.size() || head.child_extent < matched) break;
      id = enter(head.start + matched - 1);
    }
    return !torn && unchanged();
  }
};

bool Shard::match(std::span<const std::uint64_t> locals, std::span<std::uint32_t> depths,
                  TierSet tiers) const {
  return Walker(*this, locals, depths, tiers).walk();
}

}  // namespace penstock::kv::index
