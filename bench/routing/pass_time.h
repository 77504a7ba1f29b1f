#pragma once

#include <cstdint>

#include "engine/load_report.h"

namespace penstock::bench {

/// How long a worker's pass takes here: some model on some GPU, so that what is fitted to it fits.
inline Nanos pass_time(const engine::PassWork& pass) {
  const double t = pass.prefill_tokens;
  const double u = pass.kv_use;
  const double ms = (t > 0 ? 16.5 + 0.0152 * t + 4.2e-7 * t * t : 0) + 5.7 + 54 * u - 25.7 * u * u;
  return Nanos(static_cast<std::int64_t>(ms * 1e6));
}

}  // namespace penstock::bench
