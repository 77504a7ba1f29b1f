// A choice reads only the workers that have something new, and misses nothing by it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <mutex>
#include <thread>

#include "base/rng.h"
#include "serve/internal/dispatcher_for_test.h"

namespace penstock::serve {
namespace {

/// Announces its changes, or does not, so that it is read at each choice. Each report is a new one,
/// as those of engines are that count what they were given. Thread: any.
class SayingEngine final : public FakeEngine {
 public:
  SayingEngine(bool announces, std::size_t events_max)
      : FakeEngine(events_max, false), announces_(announces) {}

  [[nodiscard]] engine::LoadReport load() const override {
    const std::lock_guard lock(mutex_);
    engine::LoadReport now = report;
    now.generation = ++reads_;
    last_read_ = now.steps;
    return now;
  }
  [[nodiscard]] bool connected() const override { return connected_; }
  [[nodiscard]] bool announces_changes() const override { return announces_; }

  void say(const engine::LoadReport& what) {
    const std::lock_guard lock(mutex_);
    report = what;
    change_.set();
  }
  void connect(bool connected) {
    const std::lock_guard lock(mutex_);
    connected_ = connected;
    change_.set();
  }
  /// How often it was, and what was read last (LoadReport::steps).
  [[nodiscard]] std::uint64_t reads() const { return reads_; }
  [[nodiscard]] std::uint64_t last_read() const { return last_read_; }

 private:
  const bool announces_;
  mutable std::mutex mutex_;
  std::atomic<bool> connected_ = true;
  mutable std::uint64_t reads_ = 0;
  mutable std::uint64_t last_read_ = 0;
};

/// A dispatcher with its workers.
struct Fleet {
  Fleet(std::size_t count, bool announces, const Clock& clock, std::size_t events_max = 8192) {
    std::vector<std::unique_ptr<engine::Engine>> all;
    for (std::size_t i = 0; i < count; ++i) {
      auto engine = std::make_unique<SayingEngine>(announces, events_max);
      workers.push_back(engine.get());
      all.push_back(std::move(engine));
    }
    const engine::EngineInfo info = all.front()->info();
    dispatcher = std::make_unique<Dispatcher>(info, std::move(all), DispatchOptions{}, clock);
  }
  Result<Assignment> place(const std::vector<Token>& prompt,
                           TimePoint first_token_by = TimePoint::max()) const {
    PromptBlocks blocks;
    dispatcher->name_blocks(prompt, {}, blocks);
    return dispatcher->place(
        {.id = {}, .prompt = prompt, .locals = blocks.locals, .first_token_by = first_token_by});
  }

  std::vector<SayingEngine*> workers;
  std::unique_ptr<Dispatcher> dispatcher;
  std::vector<Assignment> live;
};

TEST(DispatcherChanges, AChoiceReadsWhoHasSomethingNewAndNobodyElse) {
  const ManualClock clock;
  Fleet fleet(70, true, clock);
  const std::vector<Token> prompt = prompt_of(100, 1);
  const auto read = [&](const auto& what) {
    std::vector<std::uint64_t> before;
    for (const SayingEngine* worker : fleet.workers) before.push_back(worker->reads());
    what();
    EXPECT_TRUE(fleet.place(prompt).has_value());
    std::vector<kv::Slot> slots;
    for (kv::Slot slot = 0; slot < fleet.workers.size(); ++slot) {
      if (fleet.workers[slot]->reads() > before[slot]) slots.push_back(slot);
    }
    return slots;
  };
  EXPECT_EQ(read([] {}).size(), 70U);
  EXPECT_THAT(read([] {}), testing::IsEmpty());
  EXPECT_THAT(read([&] { fleet.workers[69]->say({.running = 1}); }), testing::ElementsAre(69));
  EXPECT_THAT(read([&] { fleet.workers[3]->hold(prompt); }), testing::ElementsAre(3));
  EXPECT_THAT(read([&] { fleet.workers[64]->connect(false); }), testing::ElementsAre(64));
  EXPECT_THAT(read([&] { fleet.place(prompt)->refused(); }), testing::ElementsAre(3));
  EXPECT_THAT(read([&] { fleet.place(prompt)->failed(FaultClass::kWorker); }),
              testing::ElementsAre(3));
  EXPECT_THAT(read([] {}), testing::IsEmpty());
}

TEST(DispatcherChanges, AWorkerThatDoesNotAnnounceIsReadAtEachChoice) {
  const ManualClock clock;
  Fleet fleet(2, false, clock);
  for (std::uint64_t choice = 1; choice < 5; ++choice) {
    EXPECT_TRUE(fleet.place(prompt_of(100, 1)).has_value());
    for (const SayingEngine* worker : fleet.workers) EXPECT_EQ(worker->reads(), choice);
  }
}

TEST(DispatcherChanges, AWorkerWhosePictureIsInDoubtIsReadAtEachChoice) {
  const ManualClock clock;
  Fleet fleet(2, true, clock);
  const std::vector<Token> prompt = prompt_of(100, 1);
  fleet.workers[1]->hold(prompt);
  for (int i = 0; i < 20; ++i) fleet.place(prompt)->first_token({.prompt_tokens = 100});
  EXPECT_EQ(fleet.dispatcher->view().workers[1].trust, fleet::Trust::kDegraded);
  const std::uint64_t well = fleet.workers[0]->reads();
  const std::uint64_t doubtful = fleet.workers[1]->reads();
  for (std::uint64_t choice = 1; choice < 5; ++choice) {
    EXPECT_TRUE(fleet.place(prompt).has_value());
    EXPECT_EQ(fleet.workers[0]->reads(), well);
    EXPECT_EQ(fleet.workers[1]->reads(), doubtful + choice);
  }
}

/// Does the same to two fleets, one of which is read as a whole at each choice.
class Twins final {
 public:
  explicit Twins(std::uint64_t seed) : rng_(seed) {
    for (std::uint32_t p = 0; p < kPrompts; ++p) {
      prompts_.push_back(prompt_of(kBlock * (2 + rng_.below(20)) + rng_.below(kBlock), p % 5));
    }
    for (std::uint32_t slot = 0; slot < kWorkers; ++slot) report(slot);
  }

  void step() {
    const std::uint32_t slot = rng_.below(kWorkers);
    switch (rng_.below(12)) {
      case 0:
      case 1:
      case 2: return place();
      case 3:
      case 4: return report(slot);
      case 5:
      case 6: {
        const std::vector<Token>& prompt = any_prompt();
        return both([&](Fleet& fleet) { fleet.workers[slot]->hold(prompt); });
      }
      case 7:
        if (rng_.below(4) == 0) both([&](Fleet& fleet) { fleet.workers[slot]->forget(); });
        return;
      case 8: {
        const bool connected = rng_.below(3) > 0;
        return both([&](Fleet& fleet) { fleet.workers[slot]->connect(connected); });
      }
      case 9:
        clock_.advance(std::chrono::milliseconds(rng_.below(100)));
        return rng_.below(10) == 0 ? chores() : void();
      default: return end_one();
    }
  }

  void compare() {
    const DispatcherView changed = changed_.dispatcher->view();
    const DispatcherView all = all_.dispatcher->view();
    for (std::size_t i = 0; i < kWorkers; ++i) {
      const WorkerView& a = changed.workers[i];
      const WorkerView& b = all.workers[i];
      EXPECT_EQ(a.state, b.state) << i;
      EXPECT_EQ(a.trust, b.trust) << i;
      EXPECT_EQ(a.events, b.events) << i;
      EXPECT_EQ(a.requests, b.requests) << i;
      EXPECT_EQ(a.cost, b.cost) << i;
      EXPECT_EQ(a.suspected, b.suspected) << i;
    }
  }

 private:
  static constexpr std::uint32_t kWorkers = 5;
  static constexpr std::uint32_t kPrompts = 12;

  void both(const auto& what) {
    what(changed_);
    what(all_);
  }
  const std::vector<Token>& any_prompt() { return prompts_[rng_.below(kPrompts)]; }

  void report(std::uint32_t slot) {
    engine::LoadReport r = changed_.workers[slot]->report;
    const double use = rng_.fraction();
    r.running = rng_.below(4);
    r.waiting = rng_.below(3);
    r.accepted += rng_.below(static_cast<std::uint32_t>(given_[slot] - r.accepted) + 1);
    r.waiting_prefill_tokens = rng_.below(2000);
    r.running_prefill_tokens = r.waiting_prefill_tokens / 2;
    r.kv_blocks_active = rng_.below(500);
    r.kv_blocks_active_max = 600;
    r.pass_tokens_max = 256 + rng_.below(256);
    r.pass_started = clock_.now() - std::chrono::microseconds(rng_.below(9000));
    r.pass = {.prefill_tokens = rng_.below(200), .decodes = true, .kv_use = use};
    const auto took = [&] { return std::chrono::microseconds(1000 + rng_.below(90'000)); };
    ++r.last_prefill_pass.ordinal;
    r.last_prefill_pass.work = {.prefill_tokens = 1 + rng_.below(500), .kv_use = use};
    r.last_prefill_pass.took = took();
    ++r.last_decode_pass.ordinal;
    r.last_decode_pass.work = {.decodes = true, .kv_use = use};
    r.last_decode_pass.took = took();
    both([&](Fleet& fleet) { fleet.workers[slot]->say(r); });
  }

  void place() {
    const std::vector<Token>& prompt = any_prompt();
    const TimePoint by = rng_.below(4) > 0
                             ? TimePoint::max()
                             : clock_.now() + std::chrono::milliseconds(1 + rng_.below(200));
    Result<Assignment> a = changed_.place(prompt, by);
    Result<Assignment> b = all_.place(prompt, by);
    const Decision here = changed_.dispatcher->decisions().front();
    const Decision there = all_.dispatcher->decisions().front();
    ASSERT_EQ(here.candidates.size(), there.candidates.size());
    for (std::size_t i = 0; i < here.candidates.size(); ++i) {
      ASSERT_EQ(here.candidates[i].worker, there.candidates[i].worker);
      ASSERT_EQ(here.candidates[i].cached_tokens, there.candidates[i].cached_tokens);
      ASSERT_NEAR(here.candidates[i].cost, there.candidates[i].cost, 1e-6);
    }
    ASSERT_EQ(here.worker, there.worker);
    ASSERT_EQ(a.has_value(), b.has_value());
    if (!a) return;
    if (rng_.below(5) == 0) {
      a->refused();
      b->refused();
      return;
    }
    ++given_[a->worker()];
    changed_.live.push_back(std::move(*a));
    all_.live.push_back(std::move(*b));
  }

  void end_one() {
    if (changed_.live.empty()) return;
    const std::size_t at = rng_.below(static_cast<std::uint32_t>(changed_.live.size()));
    const std::uint32_t how = rng_.below(4);
    const engine::Usage usage{.prompt_tokens = 20 * kBlock, .cached_tokens = rng_.below(300)};
    both([&](Fleet& fleet) {
      Assignment& made = fleet.live[at];
      if (how == 0) made.failed(FaultClass::kWorker);
      if (how >= 1) made.first_token(usage);
      if (how == 1) return;
      if (how >= 2) made.finished();
      std::swap(made, fleet.live.back());
      fleet.live.pop_back();
    });
  }

  void chores() {
    std::vector<Dispatcher::Chore> a = changed_.dispatcher->chores();
    std::vector<Dispatcher::Chore> b = all_.dispatcher->chores();
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const bool well = rng_.below(2) == 0;
      ++given_[a[i].canary.worker()];
      a[i].canary.canary_ended(well);
      b[i].canary.canary_ended(well);
    }
  }

  Rng rng_;
  ManualClock clock_;
  std::vector<std::vector<Token>> prompts_;
  std::array<std::uint64_t, kWorkers> given_{};  // and not refused
  Fleet changed_{kWorkers, true, clock_, 16};    // events: some are gone before they are read
  Fleet all_{kWorkers, false, clock_, 16};
};

TEST(DispatcherChanges, ChoicesAreThoseThatReadingAllWouldMake) {
  for (std::uint64_t seed = 0; seed < 30 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Twins twins(seed);
    for (int step = 0; step < 500 && !testing::Test::HasFailure(); ++step) twins.step();
    twins.compare();
  }
}

TEST(DispatcherChanges, WhatWorkersSayWhileChoicesAreMadeIsSeenByTheNext) {
  constexpr std::size_t kWorkers = 100;
  constexpr std::size_t kThreads = 2;
  const ManualClock clock;
  Fleet fleet(kWorkers, true, clock);
  std::atomic<std::size_t> done = 0;
  std::vector<std::jthread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Rng rng(t);
      for (std::uint32_t round = 1; round <= 1000; ++round) {
        const std::uint32_t nth = rng.below(kWorkers / kThreads);
        SayingEngine& worker = *fleet.workers[t + kThreads * nth];
        worker.say({.steps = round});
        worker.hold(prompt_of(5 * kBlock, rng.below(50)));
      }
      done.fetch_add(1);
    });
  }
  const std::vector<Token> prompt = prompt_of(100, 1);
  while (done.load() < kThreads) EXPECT_TRUE(fleet.place(prompt).has_value());
  threads.clear();
  EXPECT_TRUE(fleet.place(prompt).has_value());
  for (const SayingEngine* worker : fleet.workers) {
    EXPECT_EQ(worker->last_read(), worker->report.steps);
  }
  const DispatcherView view = fleet.dispatcher->view();
  for (std::size_t i = 0; i < kWorkers; ++i) {
    EXPECT_EQ(view.workers[i].events, fleet.workers[i]->events.last_sequence());
    EXPECT_EQ(view.workers[i].trust, fleet::Trust::kExact);
  }
}

}  // namespace
}  // namespace penstock::serve
