#include "fleet/ledger.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/rng.h"

namespace penstock::fleet {
namespace {

std::vector<std::uint64_t> chain(std::uint64_t group, std::uint32_t blocks, std::uint32_t shared) {
  std::vector<std::uint64_t> locals;
  for (std::uint32_t i = 0; i < blocks; ++i) locals.push_back(i < shared ? i : group * 1000 + i);
  return locals;
}

TEST(Ledger, ChargesAtTheChoiceAndReleasesOnce) {
  Ledger ledger;
  const Slot a = *ledger.add(WorkerState::kReady, Role::kBoth);
  const Slot b = *ledger.add(WorkerState::kReady, Role::kBoth);
  {
    Lease lease = ledger.charge(a, {.prompt_tokens = 100, .uncached_tokens = 40});
    EXPECT_EQ(ledger.view().requests[a], 1U);
    EXPECT_EQ(ledger.view().prefill_tokens[a], 40U);
    EXPECT_EQ(ledger.view().queued_tokens[a], 40U);
    EXPECT_EQ(ledger.view().queues->size(a), 1U);
    Lease moved = std::move(lease);
    lease.release();  // NOLINT(bugprone-use-after-move): empty, so nothing
    EXPECT_EQ(ledger.in_flight(), 1U);
    moved.first_token();
    moved.first_token();
    EXPECT_EQ(ledger.view().prefills[a], 0U);
    EXPECT_EQ(ledger.view().prefill_tokens[a], 0U);
    EXPECT_EQ(ledger.view().prompt_tokens[a], 100U);
    moved.generated(3);
    EXPECT_EQ(ledger.view().output_tokens[a], 3U);
  }
  EXPECT_EQ(ledger.in_flight(), 0U);
  EXPECT_EQ(ledger.view().output_tokens[a], 0U);
  EXPECT_EQ(ledger.view().requests[b], 0U);
}

TEST(Ledger, RevisionsTellOfEveryChangeOfLoad) {
  Ledger ledger;
  const Slot a = *ledger.add(WorkerState::kReady, Role::kBoth);
  const Slot b = *ledger.add(WorkerState::kReady, Role::kBoth);
  std::set<std::uint64_t> seen = {ledger.view().revision[a], ledger.view().revision[b]};
  EXPECT_EQ(seen.size(), 2U);
  const auto changed = [&] {
    const FleetView view = ledger.view();
    EXPECT_EQ(view.changes[view.revisions % view.changes.size()], a);
    EXPECT_EQ(view.revisions, view.revision[a]);
    return seen.insert(view.revision[a]).second;
  };
  ledger.set_cost(a, {.prefill_base_ms = 2});
  EXPECT_TRUE(changed());
  ledger.set_cost(a, {.prefill_base_ms = 2});  // as it was
  EXPECT_FALSE(changed());
  Lease lease = ledger.charge(a, {.prompt_tokens = 100, .uncached_tokens = 40});
  EXPECT_TRUE(changed());
  ledger.report(a, {.generation = 1});
  EXPECT_TRUE(changed());
  ledger.report(a, {.generation = 1});  // stale
  EXPECT_FALSE(changed());
  ledger.set_cost(a, {.prefill_base_ms = 1});
  EXPECT_TRUE(changed());
  lease.first_token();
  EXPECT_TRUE(changed());
  lease.generated(1);
  EXPECT_TRUE(changed());
  lease.release();
  EXPECT_TRUE(changed());
  ledger.restarted(a);
  EXPECT_TRUE(changed());
}

TEST(Ledger, R12_DropsReportsThatAreOlderAndKeepsPicksTheyHaveNotSeen) {
  Ledger ledger;
  const Slot a = *ledger.add(WorkerState::kReady, Role::kBoth);
  const Lease one = ledger.charge(a, {.prompt_tokens = 100, .uncached_tokens = 100});
  const Lease two = ledger.charge(a, {.prompt_tokens = 70, .uncached_tokens = 70});
  EXPECT_TRUE(ledger.report(a, {.generation = 5, .accepted = 1, .prefill_tokens_left = 30}));
  EXPECT_EQ(ledger.view().queued_tokens[a], 100U);  // 30 of what it saw, 70 that it did not
  EXPECT_EQ(ledger.view().unseen[a], 1U);
  EXPECT_FALSE(ledger.report(a, {.generation = 4, .accepted = 2, .prefill_tokens_left = 1}));
  EXPECT_EQ(ledger.view().queued_tokens[a], 100U);
  EXPECT_EQ(ledger.reports_stale(), 1U);
  EXPECT_TRUE(ledger.report(a, {.generation = 6, .accepted = 2, .prefill_tokens_left = 60}));
  EXPECT_EQ(ledger.view().queued_tokens[a], 60U);
}

TEST(Ledger, H9_ARestartForgetsLoadAndOldLeasesNoLongerCount) {
  Ledger ledger;
  const Slot a = *ledger.add(WorkerState::kReady, Role::kBoth);
  Lease before = ledger.charge(a, {.prompt_tokens = 10, .uncached_tokens = 10});
  const std::uint64_t membership = ledger.view().membership;
  ledger.restarted(a);
  EXPECT_NE(ledger.view().membership, membership);
  EXPECT_EQ(ledger.view().requests[a], 0U);
  Lease after = ledger.charge(a, {.prompt_tokens = 7, .uncached_tokens = 7});
  before.first_token();
  before.release();
  EXPECT_EQ(ledger.view().requests[a], 1U);
  EXPECT_EQ(ledger.view().prefill_tokens[a], 7U);
  EXPECT_TRUE(ledger.report(a, {.generation = 1}));  // counts from 1 again
}

TEST(Ledger, SlotsAreBoundedAndReusedWhenGone) {
  Ledger ledger({.slots_max = 2});
  const Slot a = *ledger.add(WorkerState::kReady, Role::kBoth);
  ASSERT_TRUE(ledger.add(WorkerState::kReady, Role::kPrefill));
  EXPECT_FALSE(ledger.add(WorkerState::kReady, Role::kBoth));
  ledger.set_state(a, WorkerState::kGone);
  EXPECT_EQ(*ledger.add(WorkerState::kStarting, Role::kDecode), a);
  EXPECT_EQ(ledger.view().role[a], Role::kDecode);
}

TEST(Ledger, R2_SumsAlwaysEqualTheLeases) {
  constexpr std::uint32_t kWorkers = 5;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rng rng(seed);
    Ledger ledger({.count_distinct_blocks = true});
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      (void)*ledger.add(WorkerState::kReady, Role::kBoth);
    }
    struct Held {
      Lease lease;
      std::vector<std::uint64_t> locals;
    };
    std::vector<Held> held;
    for (int step = 0; step < 400; ++step) {
      const std::uint32_t what = rng.below(10);
      if (what < 5 || held.empty()) {
        const auto blocks = 1 + rng.below(12);
        std::vector<std::uint64_t> locals = chain(rng.below(4), blocks, rng.below(blocks + 1));
        const auto tokens = blocks * 64;
        Lease lease = ledger.charge(rng.below(kWorkers), {.prompt_tokens = tokens,
                                                          .uncached_tokens = rng.below(tokens),
                                                          .prompt_blocks = blocks,
                                                          .locals = locals});
        held.push_back({std::move(lease), std::move(locals)});
      } else {
        const std::uint32_t i = rng.below(static_cast<std::uint32_t>(held.size()));
        if (what < 7) held[i].lease.first_token();
        if (what == 7) held[i].lease.generated(rng.below(5));
        if (what > 7) {
          std::swap(held[i], held.back());
          held.pop_back();
        }
      }
      if (step % 8 != 0) continue;  // a sum that is wrong stays so
      std::vector<const Lease*> leases;
      std::vector<std::set<std::vector<std::uint64_t>>> prefixes(kWorkers);
      for (const Held& h : held) {
        leases.push_back(&h.lease);
        for (std::size_t n = 1; n <= h.locals.size(); ++n) {
          prefixes[h.lease.worker()].insert({h.locals.begin(), h.locals.begin() + n});
        }
      }
      ledger.check_invariants(leases);
      const std::vector<std::uint64_t> asked = chain(rng.below(4), 12, rng.below(13));
      std::vector<std::uint32_t> depths(kWorkers);
      ledger.match_active(asked, depths);
      for (Slot w = 0; w < kWorkers; ++w) {
        ASSERT_EQ(ledger.view().active_blocks[w], prefixes[w].size());
        std::size_t depth = 0;
        while (depth < asked.size() &&
               prefixes[w].contains({asked.begin(), asked.begin() + depth + 1})) {
          ++depth;
        }
        ASSERT_EQ(depths[w], depth);
      }
    }
  }
}

using Prefixes = std::set<std::vector<std::uint64_t>>;

void insert_all(Prefixes& to, const std::vector<std::uint64_t>& locals) {
  for (std::size_t n = 1; n <= locals.size(); ++n) to.insert({locals.begin(), locals.begin() + n});
}

std::uint32_t depth_in(const std::vector<Prefixes>& sets, const std::vector<std::uint64_t>& asked) {
  for (std::uint32_t n = 1; n <= asked.size(); ++n) {
    const std::vector<std::uint64_t> prefix(asked.begin(), asked.begin() + n);
    if (std::ranges::none_of(sets, [&](const Prefixes& set) { return set.contains(prefix); })) {
      return n - 1;
    }
  }
  return static_cast<std::uint32_t>(asked.size());
}

TEST(Ledger, APromptCountsAsThereFromWhenItIsTakenToItsFirstTokenOrEnd) {
  constexpr std::uint32_t kWorkers = 3;
  struct Held {
    Lease lease;
    std::vector<std::uint64_t> locals;
    bool counts = false;
  };
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Rng rng(seed);
    Ledger ledger;
    for (std::uint32_t i = 0; i < kWorkers; ++i) {
      (void)*ledger.add(WorkerState::kReady, Role::kBoth);
    }
    std::vector<Prefixes> told(kWorkers);  // by workers' events
    std::vector<Held> held;
    const auto depths_of = [&](const std::vector<std::uint64_t>& asked) {
      std::vector<std::uint32_t> depths(kWorkers);
      for (Slot w = 0; w < kWorkers; ++w) depths[w] = depth_in({told[w]}, asked);
      ledger.raise_taken(asked, depths);
      return depths;
    };
    for (int step = 0; step < 300; ++step) {
      const std::uint32_t what = rng.below(20);
      if (what < 9 || held.empty()) {
        const auto blocks = 1 + rng.below(12);
        Held made;
        made.locals = chain(rng.below(4), blocks, rng.below(blocks + 1));
        const Slot slot = rng.below(kWorkers);
        made.lease = ledger.charge(slot, {.prompt_tokens = 64, .uncached_tokens = 64});
        held.push_back(std::move(made));
        if (what % 4 == 0) continue;  // refused, or not taken yet
        held.back().lease.taken(held.back().locals, depths_of(held.back().locals)[slot]);
        held.back().counts = true;
      } else if (what == 9) {
        const Slot slot = rng.below(kWorkers);
        ledger.restarted(slot);
        told[slot].clear();
        for (Held& h : held) h.counts = h.counts && h.lease.worker() != slot;
      } else {
        Held& one = held[rng.below(static_cast<std::uint32_t>(held.size()))];
        if (what < 15) {
          one.lease.first_token();
          if (one.counts) insert_all(told[one.lease.worker()], one.locals);
          one.counts = false;
        } else {
          std::swap(one, held.back());
          held.pop_back();
        }
      }
      std::vector<const Lease*> leases;
      std::vector<std::vector<Prefixes>> there(kWorkers);
      for (Slot w = 0; w < kWorkers; ++w) there[w] = {told[w], {}};
      for (const Held& h : held) {
        leases.push_back(&h.lease);
        if (h.counts) insert_all(there[h.lease.worker()][1], h.locals);
      }
      ledger.check_invariants(leases);
      const std::vector<std::uint64_t> asked = chain(rng.below(4), 12, rng.below(13));
      const std::vector<std::uint32_t> depths = depths_of(asked);
      for (Slot w = 0; w < kWorkers; ++w) {
        ASSERT_EQ(depths[w], depth_in(there[w], asked)) << step;
        const std::uint32_t by_events = depth_in({told[w]}, asked);
        ASSERT_LE(ledger.told_blocks(w, asked, depths[w]), by_events) << step;
        if (there[w][1].empty()) {
          ASSERT_EQ(ledger.told_blocks(w, asked, by_events), by_events) << step;
        }
      }
    }
    held.clear();
    ledger.check_invariants({});  // nothing is left of what is over
  }
}

}  // namespace
}  // namespace penstock::fleet
