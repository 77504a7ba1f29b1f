#pragma once

#include "sim/trace.h"

namespace penstock::bench {

/// What it is worth that the conversation trace puts a dozen requests on one moment: planned
/// together, placed one at a time as `penstock serve` does, and with each at a moment of its own.
void print_moments(const sim::Trace& conversation);

}  // namespace penstock::bench
