// Thousands of short runs in which everything goes wrong, each checked by internal/player_audit.cc:
// nothing leaked, indexes equal to what workers hold, budgets kept, every request ended in time.
//
//   PENSTOCK_CHAOS_SEEDS=N    runs N seeds instead (bench/chaos/run.sh)
//   PENSTOCK_CHAOS_FIRST=S    beginning with seed S: with SEEDS=1 a replay of what failed

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/rng.h"
#include "sim/simulation.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PENSTOCK_SANITIZED
#endif
#endif

namespace penstock::sim {
namespace {

using FleetSetup = Setup;  // gtest has a Setup of its own
using std::chrono::milliseconds;

#ifdef PENSTOCK_SANITIZED
constexpr std::uint64_t kSeeds = 400;
#else
constexpr std::uint64_t kSeeds = 10'000;
#endif
constexpr std::uint64_t kParts = 8;  // that can run beside each other

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// Registries and followers log what goes wrong, which here is everything.
struct Quiet {
  Quiet() { log::set_level(log::Level::kOff); }
  ~Quiet() { log::set_level(log::Level::kInfo); }
};

std::array<char, 128> replay_line{};

/// A CHECK that fails ends the process: says how to see it again.
void say_how_to_replay(int) {
  (void)!write(STDERR_FILENO, replay_line.data(), std::strlen(replay_line.data()));
}

/// Prompts of a few families that begin alike, in 16-token blocks.
Trace small_trace(Rng& rng, double requests_per_s) {
  TraceBuilder builder(16);
  const std::uint32_t families = 1 + rng.below(5);
  double at_ms = 0;
  for (std::uint32_t i = 10 + rng.below(40); i > 0; --i) {
    at_ms += rng.below(4) == 0 ? 0 : rng.exponential(1e3 / requests_per_s);
    std::vector<std::uint64_t> ids{rng.below(families)};
    const std::uint32_t blocks = 1 + rng.below(12);
    while (ids.size() < blocks) {
      ids.push_back(rng.below(4) > 0 ? ids.size() : 1000 + rng.below(1000));
    }
    const std::uint64_t tokens = blocks * 16 - rng.below(16);
    const auto added =
        builder.add(Nanos(static_cast<std::int64_t>(at_ms * 1e6)), tokens, 1 + rng.below(30), ids);
    EXPECT_TRUE(added.has_value());
  }
  return std::move(builder).finish();
}

FleetSetup any_setup(Rng& rng, std::uint64_t seed) {
  const std::array policies{"latency", "dynamo", "smg-cache-aware", "round-robin"};
  FleetSetup setup{.policy = policies[rng.below(policies.size())], .workers = 1 + rng.below(4)};
  if (rng.below(3) == 0) {
    setup.workers = 0;
    setup.prefill_workers = 1 + rng.below(2);
    setup.decode_workers = 1 + rng.below(3);
  }
  setup.seed = seed;
  setup.model.block_tokens = 16;
  setup.model.kv_blocks = 16 + rng.below(120);
  setup.model.pass_tokens_max = 32U << rng.below(4);
  setup.model.sequences_max = 1 + rng.below(12);
  setup.concurrency = rng.below(4) == 0 ? 1 + rng.below(12) : 0;
  setup.routers = rng.below(3) == 0 ? 2 + rng.below(2) : 1;
  setup.placing = rng.below(2) == 0 ? Placing::kTogether : Placing::kApart;
  setup.event_delay = milliseconds(rng.below(2) * rng.below(50));
  setup.load_delay = milliseconds(rng.below(2) * rng.below(50));
  if (rng.below(4) == 0) setup.index_budget_bytes = 300'000 + rng.below(900'000);
  Faults& faults = setup.faults;
  const auto share = [&](double most) { return rng.below(3) == 0 ? 0 : most * rng.fraction(); };
  if (rng.below(4) > 0) faults.restart_every = milliseconds(200 + rng.below(8000));
  faults.restart_takes = milliseconds(rng.below(3000));
  faults.retries_max = rng.below(4);
  // Where prefill and decode are apart, small pools can be full of prompts that wait for each
  // other, as real ones: it is the deadline that ends that.
  if (rng.below(4) > 0 || setup.workers == 0) faults.deadline = milliseconds(50 + rng.below(5000));
  faults.event_loss = share(0.5);
  faults.event_duplication = share(0.5);
  faults.event_lateness = share(0.5);
  faults.event_late = milliseconds(1 + rng.below(300));
  faults.slow_workers = share(1);
  faults.slowdown = 1 + 9 * rng.fraction();
  return setup;
}

struct Totals {
  Report sums;
  void add(const Report& r) {
    sums.requests += r.requests;
    sums.completed += r.completed;
    sums.rejected += r.rejected;
    sums.failed += r.failed;
    sums.shed += r.shed;
    sums.retries += r.retries;
    sums.kv_replays += r.kv_replays;
    sums.kv_snapshots += r.kv_snapshots;
  }
};

class Chaos : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Chaos, NothingIsLeakedLateOrWrong) {
  const Quiet quiet;
  const auto before = std::signal(SIGABRT, say_how_to_replay);
  const std::uint64_t seeds = from_environment("PENSTOCK_CHAOS_SEEDS", kSeeds);
  const std::uint64_t first = from_environment("PENSTOCK_CHAOS_FIRST", 1);
  Totals totals;
  for (std::uint64_t seed = first + GetParam(); seed < first + seeds; seed += kParts) {
    std::snprintf(replay_line.data(), replay_line.size(),
                  "replay: PENSTOCK_CHAOS_FIRST=%llu PENSTOCK_CHAOS_SEEDS=1 sim_test "
                  "--gtest_filter='*Chaos*'\n",
                  static_cast<unsigned long long>(seed));
    Rng rng(mix64(seed));
    const FleetSetup setup = any_setup(rng, seed);
    const Trace trace = small_trace(rng, 1 + rng.below(60));
    const Result<Report> report = simulate(trace, setup);
    ASSERT_TRUE(report.has_value()) << report.error().message << '\n' << replay_line.data();
    ASSERT_EQ(report->completed + report->rejected + report->failed + report->shed,
              report->requests)
        << replay_line.data();
    totals.add(*report);
  }
  std::signal(SIGABRT, before);
  const Report& sums = totals.sums;
  std::printf(
      "%llu requests: %llu completed, %llu failed, %llu shed, %llu retries; %llu replays, "
      "%llu snapshots\n",
      static_cast<unsigned long long>(sums.requests),
      static_cast<unsigned long long>(sums.completed), static_cast<unsigned long long>(sums.failed),
      static_cast<unsigned long long>(sums.shed), static_cast<unsigned long long>(sums.retries),
      static_cast<unsigned long long>(sums.kv_replays),
      static_cast<unsigned long long>(sums.kv_snapshots));
  if (seeds < 10'000) return;
  // It would prove little if nothing went wrong, or everything did.
  EXPECT_GT(sums.completed, sums.requests / 3);
  EXPECT_GT(sums.failed, sums.requests / 100);
  EXPECT_GT(sums.retries, sums.requests / 100);
  EXPECT_GT(sums.shed, 0U);
  EXPECT_GT(sums.kv_replays, 0U);
  EXPECT_GT(sums.kv_snapshots, 0U);
}

INSTANTIATE_TEST_SUITE_P(Parts, Chaos, testing::Range<std::uint64_t>(0, kParts));

TEST(Faults, RunsRepeatThemselvesToTheLastBit) {
  const Quiet quiet;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rng rng(mix64(seed));
    const FleetSetup setup = any_setup(rng, seed);
    const Trace trace = small_trace(rng, 30);
    const Result<Report> one = simulate(trace, setup);
    const Result<Report> two = simulate(trace, setup);
    ASSERT_TRUE(one.has_value() && two.has_value());
    EXPECT_EQ(one->completed, two->completed);
    EXPECT_EQ(one->retries, two->retries);
    EXPECT_EQ(one->passes, two->passes);
    EXPECT_EQ(one->kv_replays, two->kv_replays);
    EXPECT_EQ(one->ttft_ms.mean, two->ttft_ms.mean);
    EXPECT_EQ(one->duration_ms, two->duration_ms);
  }
}

TEST(Faults, ADeadlockIsSaid) {
  const Quiet quiet;
  Rng rng(mix64(5267));
  FleetSetup setup = any_setup(rng, 5267);
  setup.faults.deadline = Nanos::zero();
  std::uint32_t stuck = 0;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng trace_rng(seed);
    const Result<Report> report = simulate(small_trace(trace_rng, 30), setup);
    if (report.has_value()) continue;
    EXPECT_EQ(report.error().code, Code::kUnprocessable) << report.error().message;
    ++stuck;
  }
  EXPECT_GT(stuck, 0U);
}

TEST(Faults, SetupsThatMakeNoSenseAreRefused) {
  Rng rng(1);
  const Trace trace = small_trace(rng, 10);
  for (const Faults& faults :
       {Faults{.event_loss = 1}, Faults{.event_duplication = -0.1}, Faults{.slow_workers = 1.5},
        Faults{.slow_workers = 0.5, .slowdown = 0.5}, Faults{.deadline = milliseconds(-1)}}) {
    const Result<Report> report = simulate(trace, {.workers = 2, .faults = faults});
    ASSERT_FALSE(report.has_value());
    EXPECT_EQ(report.error().code, Code::kInvalidArgument);
  }
}

TEST(Faults, SlowWorkersTakeLongerAndLatencyAvoidsThem) {
  const Quiet quiet;
  Rng rng(7);
  const Trace trace = small_trace(rng, 10);
  const auto mean_ttft = [&](const char* policy, double slow) {
    FleetSetup setup{.policy = policy, .workers = 4};
    setup.seed = 3;
    setup.model.block_tokens = 16;
    setup.faults = {.event_lateness = 0.01, .slow_workers = slow, .slowdown = 10};
    const Result<Report> report = simulate(trace, setup);
    EXPECT_TRUE(report.has_value());
    return report.has_value() ? report->ttft_ms.mean : 0;
  };
  EXPECT_GT(mean_ttft("round-robin", 1), 5 * mean_ttft("round-robin", 0));
  EXPECT_LT(mean_ttft("latency", 0.5), mean_ttft("round-robin", 0.5));
}

}  // namespace
}  // namespace penstock::sim
