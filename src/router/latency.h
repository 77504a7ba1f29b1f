#pragma once

#include <memory>

#include "router/policy.h"

namespace penstock::router {

/// The default policy: puts a request where it makes the fleet wait least, in predicted ms.
///
/// For each worker it plays the queue it knows of forward, pass by pass (outlook.h): the rest of
/// the running pass, then every prompt given to it that has no first token, as many tokens a pass
/// as the worker takes. What the worker would load from lower tiers is not computed, and is there
/// after the time that loading takes. A request goes where it adds least to
///
///     first-token times, its own and those of others that end in passes not yet full
///     + stream price x the time that answers running there stand still for prefill
///     + half of that x all decode steps of its answer (the mean learned, or what its client allows
///     if that is less), and what its KV makes those of others longer
///     + work price   x what it takes of the worker's time, or of a full pool for as long as its
///       answer takes
///     + home price   x what each of those who come for its prefix will wait there for KV
///       (Outlook::home_ms()); 0 if somebody holds half of it already
///
/// stream price = min(0.25, mean TTFT / mean time from first to last token), both learned: a stall
/// is worth the share of its phase that it is, and the cap keeps a saturated fleet, where all wait,
/// from piling up on the worker with the fewest streams. work price = 2 x the prompts not begun on
/// a worker as newcomers have lately found them: while the fleet is behind, time spent on one is
/// time that all who come later wait. It is about 0 in a fleet that keeps up. home price = how many
/// come for a prefix: tokens lately hit for each one computed.
///
/// Requests that come together are planned together: the largest first, each where it adds least,
/// then moved and exchanged as long as that helps; each worker gets its share smallest first.
///
/// Cost: O(workers) a request, and O(its queue) for each worker that changed since the one before;
/// a plan of k requests O(k^2) worker costs a round, at most kRounds rounds, exchanges only up to
/// kSwapMax requests and moves up to kMoveMax.
std::unique_ptr<Policy> make_latency();

}  // namespace penstock::router
