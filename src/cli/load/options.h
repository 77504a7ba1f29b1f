#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "cli/load/arrivals.h"
#include "cli/load/chunk.h"
#include "cli/load/statistics.h"
#include "net/http_client.h"

namespace penstock::cli::load {

/// What each request asks for beside its prompt.
struct RequestOptions {
  Endpoint endpoint = Endpoint::kChat;
  std::string model;
  std::string api_key;                // empty: none is sent
  std::uint32_t max_tokens = 64;      // unless the prompt's source knows better
  std::optional<double> temperature;  // absent: the server's own
  std::optional<std::uint64_t> seed;  // for the server's sampler; absent: none is sent
  bool ignore_eos = false;
  bool stream = true;
};

enum class Pacing : std::uint8_t { kClosed, kRate, kTrace };

/// A whole run, settled: every number within its range.
struct LoadOptions {
  net::Url server;  // its path goes before /v1/...; no '/' at the end
  RequestOptions request;

  Pacing pacing = Pacing::kClosed;
  std::size_t concurrency = 4;  // kClosed: sessions at once
  double rate_per_s = 0;        // kRate: requests; sessions begin at rate / turns
  Spacing spacing = Spacing::kPoisson;
  double speed = 1;                  // kTrace
  std::size_t in_flight_max = 4096;  // kRate, kTrace: beyond, arrivals wait
  std::uint64_t seed = 0;

  Nanos warm_up{};
  std::optional<Nanos> duration;              // of the window after the warm-up
  std::optional<std::uint64_t> requests;      // measured ones
  std::uint32_t turns = 1;                    // of a session
  Nanos timeout = std::chrono::seconds(600);  // from the intended time to the end of the answer
  std::size_t threads = 1;
  Slo slo;
};

}  // namespace penstock::cli::load
