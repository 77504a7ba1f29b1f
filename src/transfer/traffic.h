#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <string_view>

#include "base/clock.h"

namespace penstock::transfer {

enum class PathKind : std::uint8_t {
  kLocal,   // the same process
  kShared,  // the peer's memory, mapped
  kCma,     // the peer's memory, read by the kernel: for memory that cannot be mapped
  kTcp,
};
inline constexpr std::size_t kPathKinds = 4;
[[nodiscard]] std::string_view to_string(PathKind kind) noexcept;

/// Attempts to pull by one kind of path, in sum. `took` over `bytes` is what the path costs. A
/// value.
struct PathTraffic {
  std::uint64_t pulls = 0;          // attempts
  std::uint64_t retries = 0;        // of those, because another path had failed
  std::uint64_t blocks = 0;         // that arrived
  std::uint64_t failed_blocks = 0;  // lost or brought wrong; another path is tried, if there is one
  std::uint64_t bytes = 0;          // of those that arrived
  /// From the first claim by a thread to the end; attempts beside each other each by itself.
  Nanos took{0};

  PathTraffic& operator+=(const PathTraffic& more) noexcept {
    pulls += more.pulls;
    retries += more.retries;
    blocks += more.blocks;
    failed_blocks += more.failed_blocks;
    bytes += more.bytes;
    took += more.took;
    return *this;
  }
  friend bool operator==(const PathTraffic&, const PathTraffic&) = default;
};

/// What has been pulled since it was made, by kind of path. Thread: any.
class Traffic final {
 public:
  using ByPath = std::array<PathTraffic, kPathKinds>;

  void add(PathKind path, const PathTraffic& more) {
    const std::lock_guard lock(mutex_);
    sums_[static_cast<std::size_t>(path)] += more;
  }
  [[nodiscard]] ByPath sums() const {
    const std::lock_guard lock(mutex_);
    return sums_;
  }

 private:
  mutable std::mutex mutex_;
  ByPath sums_;
};

}  // namespace penstock::transfer
