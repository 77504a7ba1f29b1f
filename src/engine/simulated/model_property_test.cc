#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/simulated/model_for_test.h"

namespace penstock::engine::simulated {
namespace {

/// A random load on a random small worker, checked after every pass.
class RandomLoad {
 public:
  explicit RandomLoad(std::uint64_t seed) : random_(seed), worker_(random_options()) {}

  void run() {
    for (turn_ = 0; turn_ < kArrivalTurns || live_ > 0; ++turn_) {
      ASSERT_LT(turn_, 100 * kArrivalTurns) << "some sequence never ends";
      if (turn_ < kArrivalTurns) arrive();
      while (const auto granted = worker_.model.grant_reservation()) {
        worker_.model.activate(granted->id);
      }
      pass();
      if (draw(3) == 0) let_go();
      check();
    }
    for (const auto& [tag, s] : sequences_) {
      EXPECT_LE(s.emitted, s.output) << tag;
      EXPECT_TRUE(s.removed || s.emitted == s.output) << tag;
    }
    EXPECT_EQ(worker_.model.pool().active(), 0U);
    EXPECT_EQ(worker_.model.prompt_tokens_left(), 0U);
  }

  [[nodiscard]] const std::string& log() const { return log_; }
  [[nodiscard]] std::uint64_t preemptions() const { return worker_.model.preemptions(); }

 private:
  static constexpr int kArrivalTurns = 300;

  struct Known {
    SequenceId id = 0;
    std::uint32_t output = 0;
    std::uint32_t emitted = 0;
    bool hold = false;
    bool removed = false;
  };

  std::uint32_t draw(std::uint32_t below) { return static_cast<std::uint32_t>(random_() % below); }

  ModelOptions random_options() {
    ModelOptions options;
    options.block_tokens = 1 + draw(5);
    options.kv_blocks = 8 + draw(60);
    options.sequences_max = 1 + draw(8);
    options.pass_tokens_max = 4 + draw(60);
    options.prefix_caching = draw(8) != 0;
    return options;
  }

  void arrive() {
    const ModelOptions& options = worker_.model.options();
    for (std::uint32_t count = draw(3); count > 0; --count) {
      const std::uint32_t prompt = 1 + draw(options.kv_blocks * options.block_tokens / 2);
      const std::uint32_t output = 1 + draw(20);
      if (!worker_.model.can_run(prompt, output)) continue;
      const std::uint64_t tag = sequences_.size();
      Submission s =
          worker_.submission(tag, prompt, output, draw(4), static_cast<std::int32_t>(draw(2)));
      s.hold = draw(8) == 0;
      const bool reserve = draw(8) == 0;
      sequences_[tag] = {.id = reserve ? worker_.model.reserve(s) : worker_.model.submit(s),
                         .output = output,
                         .hold = s.hold};
      running_.insert(tag);
      ++live_;
    }
  }

  void pass() {
    if (draw(4) == 0) remove_one();
    const Pass& pass = worker_.model.start_pass();
    if (!pass.progress) {
      let_go();
      return;
    }
    log_ += std::to_string(pass.duration.count()) + ":";
    if (draw(4) == 0) remove_one();
    for (const Emission& e : worker_.model.finish_pass()) {
      Known& s = sequences_.at(e.tag);
      log_ += " " + std::to_string(e.tag);
      EXPECT_FALSE(s.removed) << e.tag;
      ++s.emitted;
      EXPECT_EQ(e.last, s.emitted == s.output) << e.tag;
      if (!e.last) continue;
      running_.erase(e.tag);
      if (s.hold) {
        held_.push_back(s.id);
      } else {
        --live_;
      }
    }
    log_ += "\n";
  }

  void remove_one() {
    if (running_.empty()) return;
    auto which = running_.begin();
    std::advance(which, draw(static_cast<std::uint32_t>(running_.size())));
    Known& s = sequences_.at(*which);
    worker_.model.remove(s.id);
    s.removed = true;
    --live_;
    running_.erase(which);
  }

  void let_go() {
    for (const SequenceId id : held_) worker_.model.release_held(id);
    live_ -= held_.size();
    held_.clear();
  }

  void check() {
    worker_.model.check_invariants();
    const BlockPool& pool = worker_.model.pool();
    EXPECT_LE(pool.active(), pool.capacity());
    EXPECT_EQ(pool.names(), worker_.reader.held.size());
    for (const auto& [high, low] : worker_.reader.held) {
      std::vector<BlockPool::Slot> found;
      pool.match(1, [&](std::uint32_t) { return kv::BlockHash{.high = high, .low = low}; }, found);
      EXPECT_EQ(found.size(), 1U);
    }
  }

  std::mt19937_64 random_;
  Worker worker_;
  int turn_ = 0;
  std::map<std::uint64_t, Known> sequences_;
  std::set<std::uint64_t> running_;  // those that may be removed
  std::vector<SequenceId> held_;
  std::size_t live_ = 0;
  std::string log_;
};

class SchedulerModelRandom : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(SchedulerModelRandom, KeepsItsInvariantsAndGivesEachSequenceItsTokensOnce) {
  RandomLoad load(GetParam());
  load.run();
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerModelRandom, ::testing::Range<std::uint64_t>(1, 31));

TEST(SchedulerModel, EqualRunsAreEqualToTheLastNanosecond) {
  std::uint64_t preemptions = 0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    RandomLoad a(seed);
    RandomLoad b(seed);
    a.run();
    b.run();
    ASSERT_FALSE(a.log().empty());
    EXPECT_EQ(a.log(), b.log());
    preemptions += a.preemptions();
  }
  EXPECT_GT(preemptions, 0U);  // or these runs prove less than they should
}

}  // namespace
}  // namespace penstock::engine::simulated
