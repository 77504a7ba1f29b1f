// What the simulated engine costs a request when its passes take no time. The floor is the
// producer's own share of the same run (building requests, waiting for the last answer), printed
// beside it.

#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdint>
#include <ctime>
#include <semaphore>

#include "engine/simulated/simulated_engine.h"

namespace penstock::engine {
namespace {

double cpu_us(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

class CountingSink final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    for (const Output& output : outputs) {
      if (output.finish && left_.fetch_sub(1) == 1) done_.release();
    }
  }
  void expect(std::int64_t requests) { left_ = requests; }
  void wait() { done_.acquire(); }

 private:
  std::atomic<std::int64_t> left_ = 0;
  std::binary_semaphore done_{0};
};

void requests_of_32_tokens(benchmark::State& state) {
  const auto prompt = static_cast<std::size_t>(state.range(0));
  const std::int64_t burst = state.range(1);
  SimulatedOptions options;
  options.worker.speedup = SimulatedOptions::kSpeedupMax;
  for (Token t = 0; t < 1000; ++t) options.vocabulary.push_back(t);
  const SteadyClock clock;
  CountingSink sink;
  const auto engine = make_simulated_engine(options, clock);
  std::uint64_t id = 0;
  const double process_us = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
  const double producer_us = cpu_us(CLOCK_THREAD_CPUTIME_ID);
  for (auto _ : state) {
    sink.expect(burst);
    for (std::int64_t i = 0; i < burst; ++i) {
      GenerateRequest request{.id = {++id}, .sink = &sink, .max_tokens = 32};
      request.prompt.assign(prompt, static_cast<Token>(id % 997));
      if (!engine->generate(std::move(request))) state.SkipWithError("refused");
    }
    sink.wait();
  }
  const auto requests = static_cast<double>(id);
  const double producer = cpu_us(CLOCK_THREAD_CPUTIME_ID) - producer_us;
  const double process = cpu_us(CLOCK_PROCESS_CPUTIME_ID) - process_us;
  state.counters["engine_us_per_request"] = (process - producer) / requests;
  state.counters["producer_us_per_request"] = producer / requests;
}
BENCHMARK(requests_of_32_tokens)
    ->ArgNames({"prompt", "burst"})
    ->ArgsProduct({{20, 1000}, {1, 16, 256}})
    ->UseRealTime();

}  // namespace
}  // namespace penstock::engine
