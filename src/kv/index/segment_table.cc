#include "kv/index/segment_table.h"

namespace penstock::kv::index {
namespace {

/// A segment is split at this fill if there is memory, and filled up to the second if there is not.
constexpr std::uint32_t kSplitAtPercent = 84;
constexpr std::uint32_t kFullPercent = 97;
/// Tags that share more leading bits than this beyond the size of the table are no hashes.
constexpr std::uint32_t kSkewBitsMax = 6;
constexpr std::uint32_t kDepthMax = 16;

std::uint32_t get(const std::atomic<std::uint32_t>& word) {
  return word.load(std::memory_order_relaxed);
}

/// The one writer's.
void add(std::atomic<std::uint32_t>& word, std::uint32_t more) {
  word.store(get(word) + more, std::memory_order_relaxed);
}

}  // namespace

template <std::size_t kSegmentBytes>
void SegmentTable<kSegmentBytes>::place(Segment& s, std::uint64_t slot) {
  std::uint32_t at = home(static_cast<std::uint32_t>(slot >> 32));
  while (s.slots[at].load(std::memory_order_relaxed) != 0) at = next(at);
  s.slots[at].store(slot, std::memory_order_release);
  add(s.count, 1);
}

template <std::size_t kSegmentBytes>
auto SegmentTable<kSegmentBytes>::new_segment(std::uint32_t depth) -> Segment* {
  if (spare_.empty()) {
    void* piece = pool_.take(user_);
    if (piece == nullptr) return nullptr;
    clear_piece(piece);  // a segment of zeroes is an empty one
    spare_ = {static_cast<std::byte*>(piece), kPieceBytes};
  }
  auto* s = reinterpret_cast<Segment*>(spare_.data());
  spare_ = spare_.subspan(kSegmentBytes);
  s->depth.store(depth, std::memory_order_relaxed);
  ++segments_;
  return s;
}

template <std::size_t kSegmentBytes>
bool SegmentTable<kSegmentBytes>::make_deeper() {
  const Directory* old = directory_.load(std::memory_order_relaxed);
  if (old->depth >= kDepthMax || (std::uint64_t{1} << old->depth) >= segments_ << kSkewBitsMax) {
    return false;
  }
  directories_.push_back(std::make_unique<Directory>(old->depth + 1));
  Directory& made = *directories_.back();
  for (std::size_t i = 0; i < std::size_t{1} << made.depth; ++i) {
    made.entries[i].store(old->entries[i / 2].load(std::memory_order_relaxed),
                          std::memory_order_relaxed);
  }
  directory_.store(&made, std::memory_order_release);
  return true;
}

template <std::size_t kSegmentBytes>
bool SegmentTable<kSegmentBytes>::split(Segment& s, std::uint32_t tag) {
  const std::uint32_t depth = get(s.depth) + 1;
  if (depth > directory_.load(std::memory_order_relaxed)->depth && !make_deeper()) return false;
  Segment* upper = new_segment(depth);
  if (upper == nullptr) return false;

  std::vector<std::uint64_t> entries;
  entries.reserve(get(s.count));
  s.version.store(s.version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  for (std::atomic<std::uint64_t>& slot : s.slots) {
    if (const std::uint64_t entry = slot.load(std::memory_order_relaxed)) {
      entries.push_back(entry);
      slot.store(0, std::memory_order_relaxed);
    }
  }
  s.count.store(0, std::memory_order_relaxed);
  s.depth.store(depth, std::memory_order_relaxed);
  for (const std::uint64_t entry : entries) {
    place((entry >> (64 - depth) & 1) != 0 ? *upper : s, entry);
  }
  const Directory& directory = *directory_.load(std::memory_order_relaxed);
  const std::size_t span = std::size_t{1} << (directory.depth - depth);
  const std::size_t first = directory.index(tag) & ~(2 * span - 1);
  for (std::size_t i = first + span; i < first + 2 * span; ++i) {
    directory.entries[i].store(upper, std::memory_order_release);
  }
  s.version.store(s.version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  return true;
}

template <std::size_t kSegmentBytes>
bool SegmentTable<kSegmentBytes>::insert(std::uint32_t tag, std::uint32_t value) {
  if (directory_.load(std::memory_order_relaxed) == nullptr) {
    Segment* first = new_segment(0);
    if (first == nullptr) return false;
    directories_.push_back(std::make_unique<Directory>(0));
    directories_.back()->entries[0].store(first, std::memory_order_relaxed);
    directory_.store(directories_.back().get(), std::memory_order_release);
  }
  Segment* s = segment_of(tag);
  while (get(s->count) >= kSlots * kSplitAtPercent / 100) [[unlikely]] {
    if (!split(*s, tag)) {
      if (get(s->count) >= kSlots * kFullPercent / 100) return false;
      break;
    }
    s = segment_of(tag);
  }
  place(*s, std::uint64_t{tag} << 32 | (std::uint64_t{value} + 1));
  return true;
}

template <std::size_t kSegmentBytes>
bool SegmentTable<kSegmentBytes>::erase(std::uint32_t tag, std::uint32_t value) {
  Segment* s = segment_of(tag);
  if (s == nullptr) return false;
  const std::uint64_t wanted = std::uint64_t{tag} << 32 | (std::uint64_t{value} + 1);
  std::uint32_t hole = home(tag);
  for (std::uint32_t step = 0;; ++step, hole = next(hole)) {
    const std::uint64_t slot = s->slots[hole].load(std::memory_order_relaxed);
    if (slot == 0 || step == kSlots) return false;
    if (slot == wanted) break;
  }
  s->version.store(s->version.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  // What was pushed past the hole by it moves back, so that probing never needs a tombstone.
  for (std::uint32_t at = next(hole);; at = next(at)) {
    const std::uint64_t slot = s->slots[at].load(std::memory_order_relaxed);
    if (slot == 0) break;
    const std::uint32_t want = home(static_cast<std::uint32_t>(slot >> 32));
    const bool stays = hole < at ? (want > hole && want <= at) : (want > hole || want <= at);
    if (stays) continue;
    s->slots[hole].store(slot, std::memory_order_relaxed);
    hole = at;
  }
  s->slots[hole].store(0, std::memory_order_relaxed);
  s->version.store(s->version.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  add(s->count, -1U);
  return true;
}

template <std::size_t kSegmentBytes>
std::uint64_t SegmentTable<kSegmentBytes>::size() const {
  const Directory* directory = directory_.load(std::memory_order_relaxed);
  if (directory == nullptr) return 0;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < std::size_t{1} << directory->depth;) {
    const Segment& s = *directory->entries[i].load(std::memory_order_relaxed);
    sum += get(s.count);
    i += std::size_t{1} << (directory->depth - get(s.depth));
  }
  return sum;
}

template class SegmentTable<kDenseSegmentBytes>;
template class SegmentTable<kPieceBytes>;

}  // namespace penstock::kv::index
