#include "fleet/registry.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "base/log.h"

namespace penstock::fleet {
namespace {

using std::chrono::seconds;

class RegistryTest : public testing::Test {
 public:
  RegistryTest() { log::set_level(log::Level::kOff); }
  ~RegistryTest() override { log::set_level(log::Level::kInfo); }

 protected:
  static WorkerInfo worker(std::string instance, std::string address = {},
                           std::uint32_t ranks = 1) {
    return {.instance = std::move(instance),
            .address = std::move(address),
            .model = "m",
            .adapters = {"french"},
            .labels = {{"zone", "a"}, {"gpu", "h100"}},
            .ranks = ranks};
  }
  Slot join(const WorkerInfo& info) {
    const Result<Slot> slot = registry_.join(info, now_);
    EXPECT_TRUE(slot.has_value());
    return slot.value_or(0);
  }
  void store(Slot slot) {
    KvBatch batch;
    batch.epoch = batch.first = batch.last = 1;
    const kv::StoredBlock block{.alias = 5, .local = 7};
    batch.stored(kv::Tier::kDevice, std::nullopt, std::span(&block, 1));
    registry_.follower(slot)->take(batch, now_);
  }
  std::uint32_t depth(Slot slot) {
    std::vector<std::uint32_t> depths(index_.slots());
    index_.match(std::vector<std::uint64_t>{7}, depths);
    return slot < depths.size() ? depths[slot] : 0;
  }
  std::vector<Registry::Due> tick() {
    std::vector<Registry::Due> due;
    registry_.tick(now_, due);
    return due;
  }

  TimePoint now_{};
  Ledger ledger_{{.slots_max = 4}};
  kv::PrefixIndex index_{{.context = "test", .shards = 1, .slots_max = 4}};
  Registry registry_{ledger_, index_};
};

TEST_F(RegistryTest, AWorkerJoinsAndBecomesReady) {
  const Slot slot = join(worker("one"));
  EXPECT_EQ(ledger_.view().state[slot], WorkerState::kStarting);
  const std::vector<Registry::Due> due = tick();
  ASSERT_EQ(due.size(), 1U);
  EXPECT_EQ(due[0].slot, slot);
  EXPECT_EQ(due[0].check, WorkerHealth::Check::kProbe);
  registry_.health(slot)->probed(true, now_);
  store(slot);
  tick();
  EXPECT_EQ(ledger_.view().state[slot], WorkerState::kReady);
  EXPECT_EQ(ledger_.view().trust[slot], Trust::kExact);
  EXPECT_EQ(join(worker("one")), slot) << "it is known";
  EXPECT_EQ(ledger_.view().state[slot], WorkerState::kReady);
}

TEST_F(RegistryTest, H9_AnotherInstanceAtAnAddressIsAnotherWorker) {
  const Slot slot = join(worker("one", "10.0.0.1"));
  store(slot);
  Lease old = ledger_.charge(slot, {.prompt_tokens = 10, .uncached_tokens = 10});
  EXPECT_EQ(depth(slot), 1U);
  const Slot again = join(worker("two", "10.0.0.1"));
  EXPECT_EQ(again, slot) << "the slot is free again";
  EXPECT_EQ(depth(slot), 0U);
  EXPECT_EQ(ledger_.view().requests[slot], 0U);
  EXPECT_EQ(ledger_.view().trust[slot], Trust::kLoadOnly);
  const Lease lease = ledger_.charge(slot, {.prompt_tokens = 10, .uncached_tokens = 10});
  old.release();
  EXPECT_EQ(ledger_.view().requests[slot], 1U);
  EXPECT_EQ(registry_.info(slot)->instance, "two");
}

TEST_F(RegistryTest, RanksHaveSlotsOfTheirOwnAndLiveAndDieTogether) {
  const Slot first = join(worker("one", {}, 3));
  EXPECT_TRUE(registry_.matches(first + 1, {.rank = 1}));
  EXPECT_FALSE(registry_.matches(first + 1, {.rank = 2}));
  registry_.health(first + 2)->probed(true, now_);
  tick();
  for (Slot rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(ledger_.view().state[first + rank], WorkerState::kReady);
  }
  EXPECT_FALSE(registry_.join(worker("two", {}, 2), now_).has_value()) << "one slot is left";
  const Lease lease = ledger_.charge(first + 2, {.prompt_tokens = 10, .uncached_tokens = 10});
  EXPECT_FALSE(registry_.idle(first));
  registry_.leave("one");
  for (Slot rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(ledger_.view().state[first + rank], WorkerState::kGone);
    EXPECT_EQ(registry_.info(first + rank), nullptr);
    EXPECT_EQ(registry_.follower(first + rank), nullptr);
  }
  join(worker("three", {}, 4));
}

TEST_F(RegistryTest, AFailedJoinTakesNothing) {
  join(worker("one", {}, 2));
  EXPECT_EQ(registry_.join(worker("two", {}, 3), now_).error().code, Code::kOverloaded);
  EXPECT_EQ(registry_.join(worker({}), now_).error().code, Code::kInvalidArgument);
  EXPECT_EQ(registry_.join(worker("none", {}, 0), now_).error().code, Code::kInvalidArgument);
  join(worker("three", {}, 2));
}

TEST_F(RegistryTest, H8_WhatAListNoLongerHasIsGone) {
  const Slot one = join(worker("one"));
  const Slot two = join(worker("two"));
  registry_.listed(std::vector{worker("two"), worker("three")}, now_);
  EXPECT_EQ(registry_.info(one)->instance, "three");
  EXPECT_EQ(registry_.info(two)->instance, "two");
  registry_.listed({}, now_);
  EXPECT_EQ(registry_.info(one), nullptr);
  EXPECT_EQ(registry_.info(two), nullptr);
}

TEST_F(RegistryTest, FiltersByWhatAWorkerIs) {
  using Labels = std::vector<std::pair<std::string, std::string>>;
  const Slot slot = join(worker("one"));
  EXPECT_TRUE(registry_.matches(slot, {}));
  EXPECT_TRUE(registry_.matches(slot, {.model = "m", .adapter = "french"}));
  EXPECT_FALSE(registry_.matches(slot, {.model = "n"}));
  EXPECT_FALSE(registry_.matches(slot, {.adapter = "german"}));
  EXPECT_TRUE(registry_.matches(slot, {.labels = Labels{{"gpu", "h100"}, {"zone", "a"}}}));
  EXPECT_FALSE(registry_.matches(slot, {.labels = Labels{{"gpu", "h100"}, {"zone", "b"}}}));
  EXPECT_FALSE(registry_.matches(slot + 1, {}));
}

TEST_F(RegistryTest, AWorkerThatIsGoneByItselfLeaves) {
  Registry registry(ledger_, index_, {.health = {.gone_after = seconds(100)}});
  const Slot slot = *registry.join(worker("one"), now_);
  std::vector<Registry::Due> due;
  registry.tick(now_ + seconds(101), due);
  EXPECT_EQ(registry.info(slot), nullptr);
  EXPECT_EQ(ledger_.view().state[slot], WorkerState::kGone);
}

}  // namespace
}  // namespace penstock::fleet
