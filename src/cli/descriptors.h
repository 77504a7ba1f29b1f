#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <cstdint>

namespace penstock::cli {

/// Has the system let this process open `wanted` descriptors, or as many as it may (the default is
/// 1024, and one is needed a connection). Returns how many it may open now. Not thread safe.
inline std::uint64_t allow_descriptors(std::uint64_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur >= wanted) return limit.rlim_cur;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max);
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : before;
}

/// Descriptors of a process beside its connections: model, logs, loops, standard streams.
inline constexpr std::uint64_t kOtherDescriptors = 64;

}  // namespace penstock::cli
