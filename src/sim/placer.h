#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/rng.h"

namespace penstock::sim {

/// Which of several router replicas places the requests of one pool of workers: every replica that
/// sees the same ones alive names the same (rendezvous hashing), and when one leaves only its own
/// pools move. Absent: none is alive.
///
/// The others hand their requests to it and get the worker's name back. Choosing takes
/// microseconds, so that one replica suffices for a pool; all that costs more (connections, text,
/// streams) stays where the request came in. Nothing has to be handed over when it fails: each
/// replica follows all workers' events and reports, and what it cannot know of (requests just
/// placed) is in the workers' next reports.
[[nodiscard]] inline std::optional<std::uint64_t> placer_of(
    std::uint64_t pool, std::span<const std::uint64_t> alive) noexcept {
  std::optional<std::uint64_t> best;
  std::uint64_t best_weight = 0;
  for (const std::uint64_t replica : alive) {
    const std::uint64_t weight = mix64(pool ^ mix64(replica + 1));
    if (!best || weight > best_weight || (weight == best_weight && replica < *best)) {
      best = replica;
      best_weight = weight;
    }
  }
  return best;
}

}  // namespace penstock::sim
