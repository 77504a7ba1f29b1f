#include "engine/simulated/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace penstock::engine::simulated {
namespace {

using Slot = BlockPool::Slot;

kv::BlockHash key(std::uint64_t n) { return {.high = 7, .low = n}; }

std::vector<kv::BlockHash> keys(std::initializer_list<std::uint64_t> numbers) {
  std::vector<kv::BlockHash> result;
  for (const std::uint64_t n : numbers) result.push_back(key(n));
  return result;
}

/// Keeps what a reader of the events would know.
class LineReader final : public PoolListener {
 public:
  void stored(const StoredRun& run) override {
    std::string line = "+" + std::to_string(run.first_block);
    for (const kv::BlockHash& k : run.keys) {
      EXPECT_TRUE(held.insert(k.low).second) << "stored twice: " << k.low;
      line += " " + std::to_string(k.low);
    }
    lines.push_back(line + " <" + std::to_string(run.parent.low));
  }
  void removed(std::span<const kv::BlockHash> removed_keys) override {
    std::string line = "-";
    for (const kv::BlockHash& k : removed_keys) {
      EXPECT_EQ(held.erase(k.low), 1U) << "removed but not held: " << k.low;
      line += " " + std::to_string(k.low);
    }
    lines.push_back(line);
  }

  std::set<std::uint64_t> held;
  std::vector<std::string> lines;
};

/// A sequence that computes all of `names`, taking from the cache what is there.
std::vector<Slot> compute(BlockPool& pool, const std::vector<kv::BlockHash>& names) {
  std::vector<Slot> slots;
  pool.match(
      static_cast<std::uint32_t>(names.size()), [&](std::uint32_t i) { return names[i]; }, slots);
  pool.acquire(slots);
  const auto hit = static_cast<std::uint32_t>(slots.size());
  EXPECT_TRUE(pool.allocate(static_cast<std::uint32_t>(names.size()) - hit, slots));
  pool.complete(std::span(slots).subspan(hit), {.first_block = hit,
                                                .parent = hit == 0 ? key(1000) : names[hit - 1],
                                                .keys = std::span(names).subspan(hit)});
  return slots;
}

bool holds(const BlockPool& pool, std::uint64_t n) {
  std::vector<Slot> slots;
  pool.match(1, [&](std::uint32_t) { return key(n); }, slots);
  return !slots.empty();
}

TEST(BlockPool, GivesEachSlotOnceAndNoMoreThanItHas) {
  BlockPool pool(3);
  std::vector<Slot> slots;
  EXPECT_FALSE(pool.allocate(4, slots));
  EXPECT_TRUE(slots.empty());
  EXPECT_TRUE(pool.allocate(3, slots));
  EXPECT_EQ(std::set<Slot>(slots.begin(), slots.end()).size(), 3U);
  EXPECT_EQ(pool.active(), 3U);
  EXPECT_EQ(pool.available(), 0U);
  EXPECT_FALSE(pool.allocate(1, slots));
  pool.release(slots);
  EXPECT_TRUE(slots.empty());
  EXPECT_EQ(pool.available(), 3U);
  EXPECT_EQ(pool.names(), 0U);
}

TEST(BlockPool, ReleasedBlocksStayFindableUntilTheirRoomIsNeeded) {
  LineReader reader;
  BlockPool pool(4, &reader);
  auto a = compute(pool, keys({1, 2, 3}));
  pool.release(a);
  EXPECT_EQ(pool.active(), 0U);
  EXPECT_EQ(pool.names(), 3U);
  auto b = compute(pool, keys({1, 2, 9}));  // hits 1 and 2; 9 takes the free slot
  EXPECT_EQ(pool.active(), 3U);
  EXPECT_TRUE(holds(pool, 3));
  pool.release(b);
  EXPECT_EQ(reader.lines, (std::vector<std::string>{"+0 1 2 3 <1000", "+2 9 <2"}));
}

TEST(BlockPool, ClearingLeavesWhatIsReferencedAndOfCopiesTheName) {
  LineReader reader;
  BlockPool pool(6, &reader);
  EXPECT_TRUE(pool.clear().empty());
  auto a = compute(pool, keys({1, 2}));
  auto b = compute(pool, keys({1, 5}));
  std::vector<Slot> copy;
  ASSERT_TRUE(pool.allocate(1, copy));
  pool.complete(copy, {.first_block = 1, .parent = key(1), .keys = keys({2})});
  pool.release(a);
  const auto gone = pool.clear();  // 2 is still held by its copy, 1 by the other sequence
  EXPECT_TRUE(gone.empty());
  EXPECT_EQ(pool.names(), 3U);
  pool.check_invariants(std::vector<std::span<const Slot>>{b, copy});
  pool.release(b);
  EXPECT_EQ(pool.clear().size(), 2U);
  EXPECT_TRUE(holds(pool, 2));
  EXPECT_FALSE(holds(pool, 1));
  pool.check_invariants(std::vector<std::span<const Slot>>{copy});
  EXPECT_EQ(pool.evictions(), 0U);
  EXPECT_EQ(reader.lines.back(), "+1 5 <1");  // of clearing the listener hears nothing
}

TEST(BlockPool, EvictsTheLeastRecentlyReleasedAndOfOneSequenceTheLastBlockFirst) {
  LineReader reader;
  BlockPool pool(4, &reader);
  auto a = compute(pool, keys({1, 2}));
  auto b = compute(pool, keys({5, 6}));
  pool.release(b);
  pool.release(a);
  std::vector<Slot> c;
  ASSERT_TRUE(pool.allocate(3, c));
  EXPECT_EQ(reader.lines.back(), "- 6 5 2");
  EXPECT_TRUE(holds(pool, 1));
  EXPECT_EQ(pool.evictions(), 3U);
}

TEST(BlockPool, AHitMakesABlockRecentAgain) {
  BlockPool pool(4);
  auto a = compute(pool, keys({1, 2}));
  pool.release(a);
  auto b = compute(pool, keys({5, 6}));
  pool.release(b);
  auto again = compute(pool, keys({1, 2}));
  pool.release(again);
  std::vector<Slot> c;
  ASSERT_TRUE(pool.allocate(2, c));
  EXPECT_TRUE(holds(pool, 1) && holds(pool, 2));
  EXPECT_FALSE(holds(pool, 5) || holds(pool, 6));
}

TEST(BlockPool, CopiesOfOneNameAreToldAsOne) {
  LineReader reader;
  BlockPool pool(4, &reader);
  std::vector<Slot> a;
  std::vector<Slot> b;
  ASSERT_TRUE(pool.allocate(1, a) && pool.allocate(1, b));
  pool.complete(a, {.parent = key(1000), .keys = keys({1})});
  pool.complete(b, {.parent = key(1000), .keys = keys({1})});
  EXPECT_EQ(pool.active(), 2U);
  EXPECT_EQ(pool.names(), 1U);
  std::vector<Slot> found;
  EXPECT_EQ(pool.match(1, [](std::uint32_t) { return key(1); }, found), 1U);
  EXPECT_EQ(found, a);  // the older one

  pool.release(a);
  std::vector<Slot> c;
  ASSERT_TRUE(pool.allocate(3, c));  // takes both free slots and a's
  EXPECT_TRUE(holds(pool, 1));
  EXPECT_EQ(reader.lines, (std::vector<std::string>{"+0 1 <1000"}));
  pool.release(b);
  ASSERT_TRUE(pool.allocate(1, c));
  EXPECT_FALSE(holds(pool, 1));
  EXPECT_EQ(reader.lines.back(), "- 1");
}

TEST(BlockPool, ARunOfNewBlocksEndsAtOneThatIsHeld) {
  LineReader reader;
  BlockPool pool(16, &reader);
  std::vector<Slot> a;
  std::vector<Slot> b;
  ASSERT_TRUE(pool.allocate(1, a) && pool.allocate(5, b));
  pool.complete(a, {.first_block = 2, .parent = key(21), .keys = keys({22})});
  pool.complete(b, {.parent = key(1000), .keys = keys({20, 21, 22, 23, 24})});
  EXPECT_EQ(reader.lines,
            (std::vector<std::string>{"+2 22 <21", "+0 20 21 <1000", "+3 23 24 <22"}));
}

/// The same rules written the plain way.
class PlainPool {
 public:
  explicit PlainPool(std::uint32_t capacity) : free_(capacity) {}

  struct Copy {
    std::uint64_t name = 0;  // 0: private
    int references = 1;
  };

  std::vector<Copy*> match(const std::vector<kv::BlockHash>& names) {
    std::vector<Copy*> found;
    for (const kv::BlockHash& name : names) {
      const auto at = copies_.find(name.low);
      if (at == copies_.end()) break;
      found.push_back(at->second.front());
    }
    return found;
  }
  void acquire(Copy* copy) {
    if (copy->references++ == 0) lru_.remove(copy);
  }
  std::size_t available() const { return free_ + lru_.size(); }
  Copy* allocate(std::vector<std::uint64_t>& gone) {
    if (free_ > 0) {
      --free_;
    } else {
      Copy* victim = lru_.front();
      lru_.pop_front();
      auto& list = copies_[victim->name];
      list.erase(std::find(list.begin(), list.end(), victim));
      if (list.empty()) {
        copies_.erase(victim->name);
        gone.push_back(victim->name);
      }
    }
    storage_.emplace_back();
    return &storage_.back();
  }
  void complete(Copy* copy, std::uint64_t name) {
    copy->name = name;
    copies_[name].push_back(copy);
  }
  void release(Copy* copy) {
    if (--copy->references > 0) return;
    if (copy->name == 0) {
      ++free_;
    } else {
      lru_.push_back(copy);
    }
  }
  std::set<std::uint64_t> names() const {
    std::set<std::uint64_t> result;
    for (const auto& [name, list] : copies_) result.insert(name);
    return result;
  }

 private:
  std::size_t free_;
  std::list<Copy*> lru_;
  std::map<std::uint64_t, std::vector<Copy*>> copies_;
  std::deque<Copy> storage_;
};

struct Holder {
  std::vector<kv::BlockHash> names;
  std::size_t filled = 0;
  std::vector<Slot> slots;
  std::vector<PlainPool::Copy*> plain;
};

/// Chains through a small tree, so that prefixes are shared and copies happen.
std::vector<kv::BlockHash> random_chain(std::mt19937_64& random, std::size_t length_max) {
  std::vector<kv::BlockHash> names;
  std::uint64_t node = 1;
  for (std::size_t length = 1 + random() % length_max; length > 0; --length) {
    node = node * 3 + random() % 2;
    names.push_back(key(node));
  }
  return names;
}

class BlockPoolRandom : public ::testing::TestWithParam<std::uint32_t> {};

TEST_P(BlockPoolRandom, BehavesLikeThePlainOne) {
  std::mt19937_64 random(GetParam());
  const std::uint32_t capacity = 1 + random() % 40;
  LineReader reader;
  BlockPool pool(capacity, &reader);
  PlainPool plain(capacity);
  std::vector<Holder> holders;
  for (int op = 0; op < 1500; ++op) {
    const std::uint64_t what = random() % 4;
    if (what == 0 || holders.empty()) {
      Holder h;
      h.names = random_chain(random, 12);
      pool.match(
          static_cast<std::uint32_t>(h.names.size()), [&](std::uint32_t i) { return h.names[i]; },
          h.slots);
      h.plain = plain.match(h.names);
      ASSERT_EQ(h.slots.size(), h.plain.size());
      pool.acquire(h.slots);
      for (PlainPool::Copy* copy : h.plain) plain.acquire(copy);
      h.filled = h.slots.size();
      holders.push_back(std::move(h));
    } else if (what == 1) {
      Holder& h = holders[random() % holders.size()];
      const std::size_t wanted = random() % (h.names.size() - h.slots.size() + 2);
      ASSERT_EQ(pool.available(), plain.available());
      const bool fits = wanted <= plain.available();
      const std::size_t lines_before = reader.lines.size();
      ASSERT_EQ(pool.allocate(static_cast<std::uint32_t>(wanted), h.slots), fits);
      std::vector<std::uint64_t> gone;
      for (std::size_t i = 0; fits && i < wanted; ++i) h.plain.push_back(plain.allocate(gone));
      std::string line = "-";
      for (const std::uint64_t name : gone) line += " " + std::to_string(name);
      ASSERT_EQ(reader.lines.size() - lines_before, gone.empty() ? 0 : 1);
      if (!gone.empty()) {
        ASSERT_EQ(reader.lines.back(), line);
      }
    } else if (what == 2) {
      Holder& h = holders[random() % holders.size()];
      const std::size_t end = std::min(h.slots.size(), h.names.size());
      if (h.filled >= end) continue;
      const std::size_t count = 1 + random() % (end - h.filled);
      pool.complete(std::span(h.slots).subspan(h.filled, count),
                    {.first_block = static_cast<std::uint32_t>(h.filled),
                     .keys = std::span(h.names).subspan(h.filled, count)});
      for (const std::size_t stop = h.filled + count; h.filled < stop; ++h.filled) {
        plain.complete(h.plain[h.filled], h.names[h.filled].low);
      }
    } else {
      const std::size_t which = random() % holders.size();
      Holder& h = holders[which];
      pool.release(h.slots);
      for (std::size_t i = h.plain.size(); i-- > 0;) plain.release(h.plain[i]);
      holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(which));
    }
    std::vector<std::span<const Slot>> owned;
    for (const Holder& h : holders) owned.emplace_back(h.slots);
    pool.check_invariants(owned);
    ASSERT_LE(pool.active(), capacity);
    ASSERT_EQ(pool.available(), plain.available());
    ASSERT_EQ(reader.held, plain.names());
    ASSERT_EQ(pool.names(), reader.held.size());
    for (const std::uint64_t name : reader.held) ASSERT_TRUE(holds(pool, name));
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, BlockPoolRandom, ::testing::Range(1U, 21U));

}  // namespace
}  // namespace penstock::engine::simulated
