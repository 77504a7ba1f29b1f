#pragma once

#include <functional>
#include <span>

#include "cells.h"

namespace penstock::bench {

/// Gives a trace by its name, as Cell::trace.
using TraceOf = std::function<const sim::Trace&(std::string_view)>;

/// Prints what it is worth to compute prompts apart from answers, when `latency` decides it request
/// by request: beside a threshold in the prompt's length on a large model, and beside never doing
/// it on the fleets of `cells`.
void print_splitting(std::span<const Cell> cells, const TraceOf& trace_of);

}  // namespace penstock::bench
