#pragma once

namespace penstock::engine {

/// The system's gRPC is not built for the thread sanitizer, which takes what it hands from one
/// thread to another for races: tests over it are left to the other trees.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#else
inline constexpr bool kThreadSanitizer = false;
#endif

}  // namespace penstock::engine
