#include "sim/simulation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "sim/generators.h"

namespace penstock::sim {
namespace {

using FleetSetup = Setup;  // gtest has a Setup of its own

Trace small_trace(std::uint64_t seed = 1) {
  Result<Trace> trace = generate(
      "shared-prefix:groups=6,users=3,system=900,question=300,output=40,rate=12,requests=150", seed,
      SIZE_MAX);
  EXPECT_TRUE(trace.has_value());
  return std::move(*trace);
}

void expect_same(const Report& a, const Report& b) {
  EXPECT_EQ(a.ttft_ms.mean, b.ttft_ms.mean);
  EXPECT_EQ(a.ttft_ms.p99, b.ttft_ms.p99);
  EXPECT_EQ(a.itl_ms.p99, b.itl_ms.p99);
  EXPECT_EQ(a.e2e_ms.mean, b.e2e_ms.mean);
  EXPECT_EQ(a.duration_ms, b.duration_ms);
  EXPECT_EQ(a.prefix_hit_ratio, b.prefix_hit_ratio);
}

TEST(Simulate, EveryPolicyServesAllAndRepeatsItself) {
  const Trace trace = small_trace();
  for (const router::PolicyEntry& entry : router::policies()) {
    for (const bool split : {false, true}) {
      FleetSetup setup{.policy = std::string(entry.name), .workers = 3};
      setup.model.kv_blocks = 200;  // evictions
      if (split) {
        setup.workers = 0;
        setup.prefill_workers = setup.decode_workers = 2;
      }
      SCOPED_TRACE(setup.policy + (split ? ", split" : ""));
      const Result<Report> first = simulate(trace, setup);
      const Result<Report> second = simulate(trace, setup);
      ASSERT_TRUE(first.has_value());
      ASSERT_TRUE(second.has_value());
      EXPECT_EQ(first->completed, trace.requests.size());
      EXPECT_EQ(first->output_tokens, 40 * trace.requests.size());
      EXPECT_GE(first->imbalance, 1);
      expect_same(*first, *second);
    }
  }
}

TEST(Simulate, PreemptedRequestsStillEnd) {
  const Trace trace = small_trace();
  FleetSetup setup{.policy = "latency", .workers = 2};
  setup.model.kv_blocks = 40;
  const Result<Report> report = simulate(trace, setup);
  ASSERT_TRUE(report.has_value());
  EXPECT_GT(report->preemptions, 0U);
  EXPECT_EQ(report->completed, trace.requests.size());
}

TEST(Simulate, RefusesWhatNoWorkerCanHold) {
  const Trace trace = small_trace();
  FleetSetup setup{.workers = 2};
  setup.model.kv_blocks = 10;
  const Result<Report> report = simulate(trace, setup);
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(report->rejected, trace.requests.size());
  EXPECT_EQ(report->completed, 0U);
  EXPECT_EQ(report->ttft_ms.mean, 0);
}

TEST(Simulate, ReplicasWithLateNewsServeAll) {
  const Trace trace = small_trace();
  for (const char* policy : {"latency", "dynamo", "llm-d-weighted"}) {
    for (const bool split : {false, true}) {
      for (const Placing placing : {Placing::kTogether, Placing::kApart}) {
        FleetSetup setup{.policy = policy, .workers = 4};
        if (split) {
          setup.workers = 0;
          setup.prefill_workers = setup.decode_workers = 2;
        }
        setup.routers = 4;
        setup.placing = placing;
        setup.event_delay = setup.load_delay = std::chrono::milliseconds(50);
        const Result<Report> report = simulate(trace, setup);
        ASSERT_TRUE(report.has_value());
        EXPECT_EQ(report->completed, trace.requests.size());
      }
    }
  }
}

TEST(Simulate, PromptsAreSplitWhereThatIsBetter) {
  // Prompts for more than one worker, and one worker for prompts.
  const Result<Trace> trace = generate(
      "shared-prefix:groups=600,users=1,system=7000,question=1000,output=100,rate=12,requests=600",
      1, SIZE_MAX);
  ASSERT_TRUE(trace.has_value());
  const auto run = [&](bool when_better) {
    FleetSetup setup{.policy = "latency",
                     .workers = 0,
                     .prefill_workers = 1,
                     .decode_workers = 3,
                     .early_hand_over = true,
                     .split_when_better = when_better};
    const Result<Report> report = simulate(*trace, setup);
    EXPECT_TRUE(report.has_value());
    EXPECT_EQ(report->completed, trace->requests.size());
    return report->ttft_ms.mean;
  };
  EXPECT_LT(2 * run(true), run(false));
}

TEST(Simulate, AClosedLoopKeepsItsConcurrency) {
  class Watch final : public Observer {
   public:
    [[nodiscard]] bool wants_placements() const noexcept override { return true; }
    void placed(std::size_t, router::Stage, Slot, const router::Explanation&) override {
      most = std::max(most, ++now);
    }
    void ended(std::size_t) override { --now; }
    int now = 0;
    int most = 0;
  } watch;
  const Trace trace = small_trace();
  const Result<Report> report =
      simulate(trace, {.policy = "least-loaded", .workers = 2, .concurrency = 7}, &watch);
  ASSERT_TRUE(report.has_value());
  EXPECT_EQ(watch.most, 7);
  EXPECT_EQ(watch.now, 0);
}

/// The order in which requests were placed.
class Order final : public Observer {
 public:
  [[nodiscard]] bool wants_placements() const noexcept override { return true; }
  void placed(std::size_t request, router::Stage, Slot, const router::Explanation&) override {
    order.push_back(request);
  }
  std::vector<std::size_t> order;
};

TEST(Simulate, RequestsComeAtTheirTimesButInAClosedLoopAsTheTraceHasThem) {
  TraceBuilder builder(64);
  for (const int at_ms : {30, 10, 20, 10}) {
    ASSERT_TRUE(builder.add_unique(std::chrono::milliseconds(at_ms), 100, 5));
  }
  const Trace trace = std::move(builder).finish();
  Order open;
  ASSERT_TRUE(simulate(trace, {.workers = 1}, &open));
  EXPECT_EQ(open.order, (std::vector<std::size_t>{1, 3, 2, 0}));
  Order closed;
  ASSERT_TRUE(simulate(trace, {.workers = 1, .concurrency = 1}, &closed));
  EXPECT_EQ(closed.order, (std::vector<std::size_t>{0, 1, 2, 3}));
}

TEST(Simulate, RequestsOfOneMomentAreAlsoPlacedOneAtATime) {
  const Result<Trace> trace = generate("bursts:requests=200", 1, SIZE_MAX);
  ASSERT_TRUE(trace.has_value());
  for (const char* policy : {"latency", "dynamo"}) {
    FleetSetup setup{.policy = policy, .workers = 4};
    const Result<Report> together = simulate(*trace, setup);
    Order each;  // what is explained is placed alone
    const Result<Report> explained = simulate(*trace, setup, &each);
    setup.one_at_a_time = true;
    const Result<Report> alone = simulate(*trace, setup);
    ASSERT_TRUE(together && explained && alone);
    expect_same(*alone, *explained);
    EXPECT_EQ(together->ttft_ms.mean != alone->ttft_ms.mean, setup.policy == "latency") << policy;
  }
}

TEST(Simulate, SpreadArrivalsAreTheSameRequestsAtMomentsOfTheirOwn) {
  const Result<Trace> trace = generate("bursts:requests=200", 1, SIZE_MAX);
  ASSERT_TRUE(trace.has_value());
  const Trace spread = spread_arrivals(*trace, std::chrono::seconds(3), 1);
  ASSERT_EQ(spread.requests.size(), trace->requests.size());
  EXPECT_EQ(spread.requests.front().at, Nanos(0));
  std::set<Nanos> moments;
  std::uint64_t tokens = 0;
  std::uint64_t tokens_before = 0;
  for (const TraceRequest& r : spread.requests) {
    moments.insert(r.at);
    tokens += r.input_tokens;
  }
  for (const TraceRequest& r : trace->requests) tokens_before += r.input_tokens;
  EXPECT_EQ(moments.size(), spread.requests.size());
  EXPECT_EQ(tokens, tokens_before);
  EXPECT_TRUE(std::ranges::is_sorted(spread.requests, {}, &TraceRequest::at));
}

TEST(Simulate, SaysWhatMakesNoSense) {
  const Trace trace = small_trace();
  const auto message = [&](const FleetSetup& setup) {
    const Result<Report> report = simulate(trace, setup);
    EXPECT_FALSE(report.has_value());
    return report ? "" : report.error().message;
  };
  EXPECT_NE(message({.policy = "fastest"}).find("fastest"), std::string::npos);
  EXPECT_FALSE(message({.workers = 0}).empty());
  EXPECT_FALSE(message({.workers = 0, .prefill_workers = 2}).empty());
  EXPECT_FALSE(message({.workers = 2, .prefill_workers = 2, .decode_workers = 2}).empty());
  EXPECT_FALSE(message({.workers = 1'000'000}).empty());
  EXPECT_FALSE(message({.speed = 0}).empty());
}

TEST(Simulate, GivesUpWhenToldTo) {
  class Quitter final : public Observer {
   public:
    bool progress(std::uint64_t, std::uint64_t) override { return false; }
  } quitter;
  const Result<Report> report = simulate(small_trace(), {.workers = 2}, &quitter);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, Code::kCancelled);
}

}  // namespace
}  // namespace penstock::sim
