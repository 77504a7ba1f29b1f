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
  static WorkerInfo worker(std::string instance, std::string address = {}) {
    return {.instance = std::move(instance),
            .address = std::move(address),
            .labels = {{"zone", "a"}, {"gpu", "h100"}}};
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

TEST_F(RegistryTest, AFailedJoinTakesNothing) {
  for (const char* name : {"one", "two", "three", "four"}) join(worker(name));
  EXPECT_EQ(registry_.join(worker("five"), now_).error().code, Code::kOverloaded);
  EXPECT_EQ(registry_.join(worker({}), now_).error().code, Code::kInvalidArgument);
  registry_.leave("two");
  EXPECT_EQ(registry_.info(1), nullptr);
  EXPECT_EQ(registry_.follower(1), nullptr);
  EXPECT_EQ(ledger_.view().state[1], WorkerState::kGone);
  EXPECT_EQ(join(worker("five")), 1U) << "in the slot of the one that left";
}

TEST_F(RegistryTest, AllLabelsAreWanted) {
  const Slot slot = join(worker("one"));
  EXPECT_TRUE(registry_.has_labels(slot, {}));
  EXPECT_TRUE(registry_.has_labels(slot, Labels{{"gpu", "h100"}, {"zone", "a"}}));
  EXPECT_FALSE(registry_.has_labels(slot, Labels{{"gpu", "h100"}, {"zone", "b"}}));
  EXPECT_FALSE(registry_.has_labels(slot + 1, {}));
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
