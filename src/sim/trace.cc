#include "sim/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace penstock::sim {
namespace {

void start_at_zero(Trace& trace) {
  if (trace.requests.empty()) return;
  const Nanos first = std::ranges::min(trace.requests, {}, &TraceRequest::at).at;
  for (TraceRequest& request : trace.requests) request.at -= first;
}

}  // namespace

void sort_by_arrival(Trace& trace) {
  std::ranges::stable_sort(trace.requests, {}, &TraceRequest::at);
}

Trace spread_arrivals(Trace trace, Nanos over, std::uint64_t seed) {
  Rng rng(mix64(seed + 1));
  for (TraceRequest& request : trace.requests) {
    request.at +=
        Nanos(static_cast<std::int64_t>(rng.fraction() * static_cast<double>(over.count())));
  }
  sort_by_arrival(trace);
  start_at_zero(trace);
  return trace;
}

/// A request without its chain, whose place it has.
Result<TraceRequest> TraceBuilder::begin(Nanos at, std::uint64_t input_tokens,
                                         std::uint64_t output_tokens) const {
  for (const auto& [tokens, what] :
       {std::pair{input_tokens, "prompt"}, std::pair{output_tokens, "answer"}}) {
    if (tokens >= 1 && tokens <= kTokensMax) continue;
    return fail(Code::kInvalidArgument,
                fmt::format("a {} of {} tokens: expected 1 to {}", what, tokens, kTokensMax));
  }
  const std::size_t blocks = input_tokens / trace_.block_tokens + 1;
  if (trace_.requests.size() >= kRequestsMax || trace_.chains.size() + blocks > kBlocksMax) {
    return fail(Code::kInvalidArgument,
                fmt::format("the trace is too large: more than {} requests or {} blocks",
                            kRequestsMax, kBlocksMax));
  }
  return TraceRequest{
      .at = at,
      .input_tokens = static_cast<std::uint32_t>(input_tokens),
      .output_tokens = static_cast<std::uint32_t>(output_tokens),
      .chain_begin = static_cast<std::uint32_t>(trace_.chains.size()),
      .chain_size = (static_cast<std::uint32_t>(input_tokens) - 1) / trace_.block_tokens + 1};
}

Result<void> TraceBuilder::add(Nanos at, std::uint64_t input_tokens, std::uint64_t output_tokens,
                               std::span<const std::uint64_t> ids) {
  if (ids.empty()) return fail(Code::kInvalidArgument, "a prompt without block ids");
  input_tokens = std::min<std::uint64_t>(input_tokens, ids.size() * trace_.block_tokens);
  const Result<TraceRequest> begun = begin(at, input_tokens, output_tokens);
  if (!begun) return std::unexpected(begun.error());
  std::uint32_t parent = 0;
  // Ids past the prompt's end name nothing.
  for (const std::uint64_t id : ids.first(begun->chain_size)) {
    const auto [entry, fresh] = links_.try_emplace({parent, id}, names_);
    names_ += fresh ? 1 : 0;
    trace_.chains.push_back(entry->second);
    parent = entry->second + 1;
  }
  trace_.requests.push_back(*begun);
  return {};
}

Result<void> TraceBuilder::add_unique(Nanos at, std::uint64_t input_tokens,
                                      std::uint64_t output_tokens) {
  const Result<TraceRequest> begun = begin(at, input_tokens, output_tokens);
  if (!begun) return std::unexpected(begun.error());
  for (std::uint32_t i = 0; i < begun->chain_size; ++i) trace_.chains.push_back(names_++);
  trace_.requests.push_back(*begun);
  return {};
}

Trace TraceBuilder::finish() && {
  start_at_zero(trace_);
  trace_.requests.shrink_to_fit();
  trace_.chains.shrink_to_fit();
  return std::move(trace_);
}

}  // namespace penstock::sim
