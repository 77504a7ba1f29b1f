// How fast the model replays a day's conversations. Needs the trace that replay_test.cc needs.

#include <benchmark/benchmark.h>

#include "engine/simulated/replay_for_test.h"

namespace penstock::engine::simulated::replay {
namespace {

void replay_conversation(benchmark::State& state) {
  const auto path = conversation_trace();
  if (!path) {
    state.SkipWithError("set PENSTOCK_TRACES to the folder of mooncake_conversation.jsonl");
    return;
  }
  const auto trace = read_trace(*path, static_cast<std::size_t>(state.range(0)));
  const Setup setup{.workers = static_cast<std::uint32_t>(state.range(1))};
  for (auto _ : state) benchmark::DoNotOptimize(replay(trace, setup).last_completion);
}
BENCHMARK(replay_conversation)
    ->ArgNames({"requests", "workers"})
    ->Args({1000, 4})
    ->Args({12031, 4})
    ->Args({12031, 8})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace penstock::engine::simulated::replay
