#pragma once

#include <cstdint>

#include "sim/trace.h"

namespace penstock::bench {

/// Prints how far `latency` is from the best placement that a search with knowledge of the future
/// found for the first 1,000 requests of the conversation trace and of `bursts`, `proposals`
/// changes tried a fleet.
///
/// The search begins with the choices `latency` makes, and tries to give a request to another
/// worker or to exchange two; it keeps what makes mean TTFT and mean TPOT better in sum, each
/// relative to where it began, as the simulator itself measures it (in one row TPOT alone counts).
/// So it knows all arrivals, all answers' lengths, and what every later request suffers. What it
/// finds can be reached; how much more could be is not known.
void print_oracle(const sim::Trace& conversation, const sim::Trace& bursts,
                  std::uint32_t proposals);

}  // namespace penstock::bench
