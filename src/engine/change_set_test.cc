#include "engine/change_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <thread>
#include <vector>

namespace penstock::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::size_t> swept(ChangeSet& changes) {
  std::vector<std::size_t> all;
  changes.sweep([&](std::size_t at) { all.push_back(at); });
  return all;
}

TEST(ChangeSet, WhatIsSetIsSweptOnceWhateverItsNumber) {
  ChangeSet changes(130);
  EXPECT_THAT(swept(changes), IsEmpty());
  for (const std::size_t at : {129, 0, 64, 63, 0}) changes.set(at);
  EXPECT_THAT(swept(changes), ElementsAre(0, 63, 64, 129));
  EXPECT_THAT(swept(changes), IsEmpty());
}

TEST(ChangeSet, WhatAVisitSetsIsTheNextSweeps) {
  ChangeSet changes(10);
  changes.set(3);
  changes.sweep([&](std::size_t at) { changes.set(at); });
  EXPECT_THAT(swept(changes), ElementsAre(3));
}

TEST(ChangeSet, ABitSaysNothingBeforeItIsToldOfASet) {
  ChangeSet changes(10);
  ChangeBit bit;
  bit.set();
  bit.announce_to(changes, 7);
  EXPECT_THAT(swept(changes), IsEmpty());
  bit.set();
  EXPECT_THAT(swept(changes), ElementsAre(7));
}

// A bit that is lost is not set again in its phase.
TEST(ChangeSet, WhoReadsOnlyWhatIsSweptMissesNothing) {
  constexpr std::size_t kWriters = 2;
  constexpr std::size_t kEach = 32;
  constexpr std::uint64_t kPhases = 2000;
  ChangeSet changes(kWriters * kEach);
  std::array<std::atomic<std::uint64_t>, kWriters * kEach> said{};
  std::array<std::uint64_t, kWriters * kEach> heard{};
  const auto read = [&](std::size_t at) { heard[at] = said[at].load(std::memory_order_relaxed); };
  std::atomic<std::uint64_t> done = 0;
  std::barrier phase_border(kWriters + 1);
  std::vector<std::jthread> writers;
  for (std::size_t w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      for (std::uint64_t phase = 1; phase <= kPhases; ++phase) {
        phase_border.arrive_and_wait();
        for (std::size_t i = 0; i < kEach; ++i) {
          const std::size_t at = w + kWriters * i;  // a word is everybody's
          said[at].store(phase, std::memory_order_relaxed);
          changes.set(at);
        }
        done.fetch_add(1);
      }
    });
  }
  std::uint64_t missed = 0;
  for (std::uint64_t phase = 1; phase <= kPhases; ++phase) {
    phase_border.arrive_and_wait();
    while (done.load() < phase * kWriters) changes.sweep(read);
    changes.sweep(read);
    missed += static_cast<std::uint64_t>(
        std::ranges::count_if(heard, [&](std::uint64_t last) { return last != phase; }));
  }
  EXPECT_EQ(missed, 0U);
}

}  // namespace
}  // namespace penstock::engine
