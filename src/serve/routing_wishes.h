#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/labels.h"
#include "base/result.h"
#include "net/http_server.h"

namespace penstock::serve {

/// What a client may say of where and when its request is to run, in headers of its own:
///   x-data-parallel-rank: N   only the worker of this rank (vLLM's header)
///   x-worker-labels: zone=eu, gpu=h100   only a worker that has all of them; several lines are one
///   x-slo-ttft-ms: N          a first token later than that, from the request's arrival, is of no
///                             use: answered 429 at once if it is predicted (llm-d's header)
struct RoutingWishes {
  std::optional<std::uint32_t> rank;
  Labels labels;
  std::optional<Nanos> ttft_max;
};

/// Fails with kInvalidArgument, and the header in `param`, on what is no number or out of range.
Result<RoutingWishes> read_routing_wishes(const net::HttpRequest& request);

}  // namespace penstock::serve
