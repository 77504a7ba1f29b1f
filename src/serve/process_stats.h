#pragma once

#include <cstdint>

namespace penstock::serve {

/// What the system says of this process. Zero where it does not.
struct ProcessStats {
  std::uint64_t resident_bytes = 0;
  std::uint64_t open_descriptors = 0;
};

/// Reads /proc. Thread: any.
[[nodiscard]] ProcessStats read_process_stats();

}  // namespace penstock::serve
