#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/rng.h"

namespace penstock::sim {

/// One request of a trace.
struct TraceRequest {
  Nanos at{0};                      // after the trace's earliest request
  std::uint32_t input_tokens = 0;   // >= 1
  std::uint32_t output_tokens = 0;  // >= 1
  std::uint32_t chain_begin = 0;    // in Trace::chains
  std::uint32_t chain_size = 0;
};

/// Requests in their source's order, with what their prompts share. The content of a prompt is a
/// chain of names, one for each `block_tokens` tokens (the last perhaps in part): equal names mean
/// equal tokens there and everywhere before. Compact: 24 bytes a request and 4 a block.
struct Trace {
  std::uint32_t block_tokens = 512;
  std::vector<TraceRequest> requests;
  std::vector<std::uint32_t> chains;

  [[nodiscard]] std::span<const std::uint32_t> chain(const TraceRequest& r) const noexcept {
    return std::span(chains).subspan(r.chain_begin, r.chain_size);
  }
};

/// By time; requests of one moment stay in order.
void sort_by_arrival(Trace& trace);

/// For a trace whose times are rounded: each request later by its own draw from [0, over), and all
/// sorted.
[[nodiscard]] Trace spread_arrivals(Trace trace, Nanos over, std::uint64_t seed);

/// Puts a trace together. Content ids are whatever the source calls its blocks: a prompt's first n
/// blocks equal another's exactly when their first n ids do.
class TraceBuilder final {
 public:
  static constexpr std::uint32_t kTokensMax = 1U << 24;  // of one prompt or answer
  static constexpr std::size_t kRequestsMax = 20'000'000;
  static constexpr std::size_t kBlocksMax = 400'000'000;  // of all prompts

  explicit TraceBuilder(std::uint32_t block_tokens) { trace_.block_tokens = block_tokens; }

  /// `at` counts from any moment. A prompt is cut to what its ids cover. Fails, saying why, on
  /// lengths out of range or no ids, or when the trace grows too large.
  Result<void> add(Nanos at, std::uint64_t input_tokens, std::uint64_t output_tokens,
                   std::span<const std::uint64_t> ids);
  /// A prompt that shares nothing.
  Result<void> add_unique(Nanos at, std::uint64_t input_tokens, std::uint64_t output_tokens);

  [[nodiscard]] std::size_t size() const noexcept { return trace_.requests.size(); }

  /// In the order in which they were added, the earliest at 0.
  [[nodiscard]] Trace finish() &&;

 private:
  struct Link {
    std::uint32_t parent;  // a name + 1; 0: the prompt's beginning
    std::uint64_t id;
    friend bool operator==(const Link&, const Link&) = default;
  };
  struct LinkHash {
    std::size_t operator()(const Link& link) const noexcept {
      return mix64(link.id + (std::uint64_t{link.parent} + 1) * 0x9e3779b97f4a7c15ULL);
    }
  };

  [[nodiscard]] Result<TraceRequest> begin(Nanos at, std::uint64_t input_tokens,
                                           std::uint64_t output_tokens) const;

  Trace trace_;
  std::uint32_t names_ = 0;
  std::unordered_map<Link, std::uint32_t, LinkHash> links_;
};

}  // namespace penstock::sim
