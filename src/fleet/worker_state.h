#pragma once

#include <cstdint>
#include <string_view>

#include "engine/role.h"

namespace penstock::fleet {

/// What a worker is good for. Only ready workers get new requests; suspect ones if none is ready.
enum class WorkerState : std::uint8_t {
  kStarting,  // known, not yet answering
  kReady,
  kDraining,  // finishes what it has
  kSuspect,   // failing probes or requests; may come back
  kGone,      // will not come back under this identity; its slot can be given to another
};

/// How far the router's picture of a worker's cache can be believed.
enum class Trust : std::uint8_t {
  kExact,       // every event up to the last is applied
  kCatchingUp,  // events are missing and being fetched
  kDegraded,    // events were lost for good, or predictions did not come true
  kLoadOnly,    // the worker tells nothing of its cache
};

using engine::Role;

[[nodiscard]] constexpr std::string_view to_string(WorkerState state) noexcept {
  switch (state) {
    case WorkerState::kStarting: return "starting";
    case WorkerState::kReady: return "ready";
    case WorkerState::kDraining: return "draining";
    case WorkerState::kSuspect: return "suspect";
    case WorkerState::kGone: return "gone";
  }
  return {};
}

[[nodiscard]] constexpr std::string_view to_string(Trust trust) noexcept {
  switch (trust) {
    case Trust::kExact: return "exact";
    case Trust::kCatchingUp: return "catching_up";
    case Trust::kDegraded: return "degraded";
    case Trust::kLoadOnly: return "load_only";
  }
  return {};
}

}  // namespace penstock::fleet
