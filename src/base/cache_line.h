#pragma once

#include <cstddef>

namespace penstock {

/// What is written by one thread and read by others lies on lines of its own; what is used together
/// lies on one.
inline constexpr std::size_t kCacheLineBytes = 64;

/// Asks for all these lines at once: whoever reads them then waits for the first, not for each.
inline void prefetch_bytes(const void* from, std::size_t size_bytes) noexcept {
  const auto* bytes = static_cast<const char*>(from);
  for (std::size_t at = 0; at < size_bytes; at += kCacheLineBytes) __builtin_prefetch(bytes + at);
}

}  // namespace penstock
