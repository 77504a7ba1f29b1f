// The index against the oracle, after any events.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kv/index_events_for_test.h"
#include "kv/prefix_index.h"
#include "kv/reference_index.h"

namespace penstock::kv {
namespace {

using Events = IndexEvents<RandomSource>;
using Naming = Events::Naming;
constexpr Slot kSlots = 7;
constexpr TierSet kMasks[] = {kDeviceOnly, kDeviceAndHost, kAllTiers, tier_set(Tier::kHost)};

PrefixIndex::Options small() { return {.budget_bytes = 64U << 20, .shards = 4, .slots_max = 64}; }

void expect_same(const PrefixIndex& index, const ReferenceIndex& oracle,
                 const std::vector<std::uint64_t>& chain) {
  for (const TierSet tiers : kMasks) {
    std::vector<std::uint32_t> depths(kSlots, 99);
    const std::size_t written = index.match(chain, depths, tiers);
    for (Slot slot = 0; slot < written; ++slot) {
      ASSERT_EQ(depths[slot], oracle.depth(slot, chain, tiers))
          << "slot " << slot << " tiers " << int{tiers};
    }
  }
}

class IndexPropertyTest : public testing::TestWithParam<Naming> {};

TEST_P(IndexPropertyTest, AnswersAsTheOracleAfterAnyEvents) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    RandomSource source(seed);
    Events events(source, kSlots, GetParam());
    PrefixIndex index(small());
    ReferenceIndex oracle;
    for (int step = 0; step < 400; ++step) {
      const Events::Event event = events.next();
      apply(event, index);
      apply(event, oracle);
      if (GetParam() != Naming::kColliding && step % 100 == 99) events.rename();
      if (step % 3 == 0) {
        ASSERT_NO_FATAL_FAILURE(expect_same(index, oracle, events.chain(45)))
            << "seed " << seed << " step " << step;
      }
      if (step % 20 == 0) index.check();
    }
    index.check();
    EXPECT_EQ(index.stats().parent_unknown, oracle.parent_unknown()) << seed;
    EXPECT_EQ(index.stats().unknown_removals, oracle.unknown_removals()) << seed;
    for (Slot slot = 0; slot < kSlots; ++slot) index.cleared(slot);
    index.check();
    EXPECT_EQ(index.stats().blocks, 0U) << "something lives that nobody holds";
    EXPECT_EQ(index.stats().runs, 0U);
  }
}

TEST_P(IndexPropertyTest, ASnapshotRestoredAnswersAlike) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    RandomSource source(seed);
    Events events(source, kSlots, GetParam());
    PrefixIndex index(small());
    ReferenceIndex oracle;
    const auto feed = [&](auto& to, int steps) {
      for (int step = 0; step < steps; ++step) {
        const Events::Event event = events.next();
        apply(event, to);
        apply(event, oracle);
      }
    };
    feed(index, 300);
    PrefixIndex other(small());
    ASSERT_TRUE(other.restore(index.snapshot()).has_value());
    other.check();
    EXPECT_EQ(other.stats().blocks, index.stats().blocks);
    feed(other, 300);  // names came along: later events find what they mean
    for (int i = 0; i < 50; ++i) {
      ASSERT_NO_FATAL_FAILURE(expect_same(other, oracle, events.chain(45))) << seed;
    }
    other.check();
  }
}

INSTANTIATE_TEST_SUITE_P(Namings, IndexPropertyTest,
                         testing::Values(Naming::kShared, Naming::kOwn, Naming::kColliding),
                         [](const auto& info) {
                           return std::string(info.param == Naming::kShared ? "Shared"
                                              : info.param == Naming::kOwn  ? "Own"
                                                                            : "Colliding");
                         });

// What a reader is told was so at some moment between the events done before it asked and those
// begun before it had its answer.
TEST(IndexConcurrencyTest, AReadersAnswerLiesBetweenBeforeAndAfter) {
  constexpr int kSteps = 3000;
  constexpr int kQueries = 6;
  RandomSource source(11);
  Events events(source, kSlots, Naming::kShared);
  std::vector<std::vector<std::uint64_t>> chains;
  for (int q = 0; q < kQueries; ++q) chains.push_back(events.chain(45));
  std::vector<Events::Event> script;
  std::vector<std::uint32_t> truth;  // by step (0: before any), query and slot
  ReferenceIndex oracle;
  for (int step = 0; step <= kSteps; ++step) {
    if (step > 0) {
      script.push_back(events.next());
      apply(script.back(), oracle);
    }
    for (const auto& chain : chains) {
      for (Slot slot = 0; slot < kSlots; ++slot) truth.push_back(oracle.depth(slot, chain));
    }
  }

  PrefixIndex index(small());
  std::atomic<int> begun = 0;
  std::atomic<int> done = 0;
  std::atomic<std::uint64_t> wrong = 0;
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&, r] {
      std::vector<std::uint32_t> depths(kSlots, 0);
      for (int q = r; done.load() < kSteps; q = (q + 1) % kQueries) {
        const int before = done.load();
        const std::size_t written = index.match(chains[q], depths);
        const int after = begun.load();
        for (Slot slot = 0; slot < written; ++slot) {
          std::uint32_t low = ~0U;
          std::uint32_t high = 0;
          for (int step = before; step <= after; ++step) {
            const std::uint32_t depth = truth[(step * kQueries + q) * kSlots + slot];
            low = std::min(low, depth);
            high = std::max(high, depth);
          }
          if (depths[slot] < low || depths[slot] > high) wrong.fetch_add(1);
        }
      }
    });
  }
  for (const Events::Event& event : script) {
    begun.fetch_add(1);
    apply(event, index);
    done.fetch_add(1);
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0U);
  index.check();
}

TEST(IndexConcurrencyTest, TwoWritersEndWhereTheOracleDoes) {
  for (const Naming naming : {Naming::kShared, Naming::kOwn}) {
    RandomSource source(3);
    Events events(source, kSlots, naming);
    std::vector<Events::Event> script;
    ReferenceIndex oracle;
    for (int step = 0; step < 4000; ++step) {
      script.push_back(events.next());
      apply(script.back(), oracle);
    }
    PrefixIndex index(small());
    std::atomic<bool> stop = false;
    std::thread reader([&] {
      std::vector<std::uint32_t> depths(kSlots);
      RandomSource own(9);
      Events queries(own, kSlots, naming);
      while (!stop.load()) index.match(queries.chain(45), depths);
    });
    std::vector<std::thread> writers;
    for (Slot half = 0; half < 2; ++half) {
      writers.emplace_back([&, half] {
        for (const Events::Event& event : script) {
          if (event.slot % 2 == half) apply(event, index);
        }
      });
    }
    for (std::thread& writer : writers) writer.join();
    stop.store(true);
    reader.join();
    index.check();
    for (int i = 0; i < 200; ++i) {
      ASSERT_NO_FATAL_FAILURE(expect_same(index, oracle, events.chain(45)));
    }
  }
}

}  // namespace
}  // namespace penstock::kv
