#pragma once

#include <cstddef>

namespace penstock {

/// What is written by one thread and read by others lies on lines of its own; what is used together
/// lies on one.
inline constexpr std::size_t kCacheLineBytes = 64;

}  // namespace penstock
