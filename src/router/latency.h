#pragma once

#include <memory>

#include "router/policy.h"

namespace penstock::router {

/// The default policy: puts a request where it makes the fleet wait least, in predicted ms.
///
/// For each worker it plays the queue it knows of forward, pass by pass: the rest of the running
/// pass, then every prompt given to it that has no first token, as many tokens a pass as the worker
/// takes. cost = the sum of the first-token times of all that end in passes not yet begun (the
/// newcomer's own, and what it adds to the others') + lambda x the time that answers running there
/// stand still for prefill. A request goes where it adds least to that.
///
/// lambda = min(0.25, mean TTFT / mean time from first to last token), both learned: a stall is
/// worth the share of its phase that it is, and the cap keeps a saturated fleet, where all wait,
/// from piling up on the worker with the fewest streams.
///
/// Requests that come together are planned together: the largest first, each where it adds least,
/// then moved and exchanged as long as that helps; each worker gets its share smallest first.
///
/// Cost: O(workers x queued prompts) a request; a plan of k requests O(k^2) worker costs a round,
/// at most kRounds rounds, exchanges only up to kSwapMax requests and moves up to kMoveMax.
std::unique_ptr<Policy> make_latency();

}  // namespace penstock::router
