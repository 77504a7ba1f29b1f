#include "engine/kv_event_log.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace penstock::engine {
namespace {

using Kind = kv::Event::Kind;

kv::BlockHash hash(std::uint64_t n) { return {.high = 1, .low = n}; }

std::vector<kv::Event> read_all(const KvEventLog& log, std::uint64_t from) {
  std::vector<kv::Event> events;
  EXPECT_TRUE(log.read(from, 1'000'000, events));
  return events;
}

/// What a reader makes of events.
void apply(std::map<kv::BlockHash, kv::Event>& held, const kv::Event& event) {
  if (event.kind == Kind::kStored) held[event.hash] = event;
  if (event.kind == Kind::kRemoved) held.erase(event.hash);
  if (event.kind == Kind::kCleared) held.clear();
}

TEST(KvEventLog, NumbersEventsFromOneWithoutAGap) {
  KvEventLog log;
  EXPECT_TRUE(read_all(log, 1).empty());
  const std::vector<Token> tokens = {4, 5};
  EXPECT_EQ(log.last_sequence(), 0U);
  log.stored({.hash = hash(1), .parent = hash(0), .local = 77, .tokens = tokens});
  log.removed(hash(1));
  log.cleared();
  const auto events = read_all(log, 1);
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].kind, Kind::kStored);
  EXPECT_EQ(events[0].hash, hash(1));
  EXPECT_EQ(events[0].parent, hash(0));
  EXPECT_EQ(events[0].tokens, tokens);
  EXPECT_EQ(events[0].local, 77U);
  EXPECT_EQ(log.last_sequence(), events.back().sequence);
  EXPECT_EQ(events[1].kind, Kind::kRemoved);
  EXPECT_EQ(events[1].hash, hash(1));
  EXPECT_EQ(events[2].kind, Kind::kCleared);
  for (std::size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence, i + 1);
  EXPECT_EQ(read_all(log, 3).size(), 1U);
  EXPECT_TRUE(read_all(log, 4).empty());
}

TEST(KvEventLog, ReadsNoMoreThanAskedForAndAppends) {
  KvEventLog log;
  for (std::uint64_t n = 1; n <= 5; ++n) log.stored({.hash = hash(n), .parent = hash(n - 1)});
  std::vector<kv::Event> events;
  ASSERT_TRUE(log.read(2, 2, events));
  ASSERT_TRUE(log.read(4, 2, events));
  ASSERT_EQ(events.size(), 4U);
  for (std::size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].sequence, i + 2);
}

TEST(KvEventLog, AReaderTooFarBehindIsToldToTakeASnapshot) {
  KvEventLog log(3);
  for (std::uint64_t n = 1; n <= 5; ++n) log.stored({.hash = hash(n), .parent = hash(n - 1)});
  std::vector<kv::Event> events;
  const auto lost = log.read(2, 10, events);
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::kNotFound);
  EXPECT_TRUE(events.empty());
  EXPECT_EQ(read_all(log, 3).size(), 3U);
  std::uint64_t sequence = 0;
  EXPECT_EQ(log.snapshot(sequence).size(), 5U);
  EXPECT_EQ(sequence, 5U);
  EXPECT_TRUE(read_all(log, sequence + 1).empty());
}

TEST(KvEventLog, RemovingWhatIsNotHeldIsNoEvent) {
  KvEventLog log;
  log.removed(hash(9));
  EXPECT_TRUE(read_all(log, 1).empty());
}

TEST(KvEventLog, ASnapshotIsWhatTheEventsAddUpToWithParentsFirst) {
  std::mt19937 random(1);
  KvEventLog log(100'000);
  std::map<std::uint64_t, std::set<std::uint64_t>> children;  // of held blocks
  std::map<std::uint64_t, std::uint64_t> parent;
  for (int op = 0; op < 3000; ++op) {
    const std::uint64_t n = 1 + random() % 60;
    const std::uint64_t above = n / 2;
    if (!parent.contains(n) && (above == 0 || parent.contains(above))) {
      log.stored({.hash = hash(n), .parent = hash(above), .tokens = {static_cast<Token>(n)}});
      parent[n] = above;
      children[above].insert(n);
    } else if (parent.contains(n) && children[n].empty()) {
      log.removed(hash(n));
      children[parent[n]].erase(n);
      parent.erase(n);
    } else if (random() % 500 == 0) {
      log.cleared();
      parent.clear();
      children.clear();
    }
  }
  std::map<kv::BlockHash, kv::Event> held;
  for (const kv::Event& event : read_all(log, 1)) {
    if (event.kind == Kind::kStored) {  // whether its block is held, removed or cleared by now
      EXPECT_EQ(event.tokens, std::vector{static_cast<Token>(event.hash.low)});
    }
    apply(held, event);
  }
  std::uint64_t sequence = 0;
  std::set<kv::BlockHash> seen;
  for (const kv::Event& event : log.snapshot(sequence)) {
    EXPECT_EQ(event.kind, Kind::kStored);
    EXPECT_TRUE(event.parent == hash(0) || seen.contains(event.parent));
    EXPECT_TRUE(seen.insert(event.hash).second);
    EXPECT_EQ(held.at(event.hash).tokens, event.tokens);
    EXPECT_EQ(held.at(event.hash).parent, event.parent);
  }
  EXPECT_EQ(seen.size(), held.size());
  EXPECT_FALSE(seen.empty());
}

TEST(KvEventLog, AReaderBesideTheWriterEndsWithWhatIsHeld) {
  KvEventLog log(50);  // so that the reader is left behind now and then
  constexpr std::uint64_t kBlocks = 2000;
  std::jthread writer([&log] {
    for (std::uint64_t n = 1; n <= kBlocks; ++n) {
      log.stored({.hash = hash(n), .parent = hash(0)});
      if (n % 3 == 0) log.removed(hash(n));
    }
    log.stored({.hash = hash(kBlocks + 1), .parent = hash(0)});
  });
  std::map<kv::BlockHash, kv::Event> held;
  std::uint64_t next = 1;
  while (!held.contains(hash(kBlocks + 1))) {
    std::vector<kv::Event> events;
    if (log.read(next, 20, events)) {
      for (const kv::Event& event : events) {
        ASSERT_EQ(event.sequence, next++);
        apply(held, event);
      }
    } else {
      std::uint64_t sequence = 0;
      held.clear();
      for (const kv::Event& event : log.snapshot(sequence)) apply(held, event);
      ASSERT_GE(sequence + 1, next);
      next = sequence + 1;
    }
  }
  EXPECT_EQ(held.size(), kBlocks - kBlocks / 3 + 1);
}

}  // namespace
}  // namespace penstock::engine
