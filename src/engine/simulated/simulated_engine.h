#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/simulated/model.h"

namespace penstock::engine {

/// A worker without a model: it answers with tokens that a test can predict, after exactly the time
/// that `worker` says. For load tests, fleets on a laptop, and whatever must not depend on weights.
struct SimulatedOptions {
  /// As `worker.speedup`: no pass takes any time, the engine answers as fast as it can.
  static constexpr double kSpeedupMax = std::numeric_limits<double>::infinity();

  std::string model = "simulated";
  simulated::ModelOptions worker;     // block size, KV size, batch limits, clock, speed-up
  std::vector<Token> vocabulary;      // what answers are drawn from; never empty, each id once
  std::uint32_t vocabulary_size = 0;  // as told in info(); 0: the greatest of `vocabulary` + 1
  std::uint32_t context_tokens_max = 131072;  // lowered to what the KV blocks can hold
  std::uint32_t queue_max = 1024;             // requests waiting beyond worker.sequences_max
  int retry_after_s = 1;                      // told with kOverloaded
  double eos_probability = 0;                 // of each token: the answer ends instead
  std::uint64_t seed = 0;                     // of requests that bring none
  std::uint32_t embedding_size = 0;           // 0: embed() is refused
  std::size_t kv_events_max = 8192;           // kept for readers that lag
  bool kv_event_tokens = true;                // KV events carry their blocks' tokens
};

/// Options must make sense (CHECKed). `clock` must outlive the engine and run at the speed of the
/// machine's: the engine sleeps for what is left of a pass by it.
///
/// What a request asks for is honoured as by a real engine, except that sampling parameters other
/// than `seed` change nothing, embeddings take no time beyond the end of the running pass, and a
/// grammar is refused.
std::unique_ptr<Engine> make_simulated_engine(SimulatedOptions options, const Clock& clock);

}  // namespace penstock::engine
