#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "base/clock.h"
#include "cli/load/generator.h"
#include "cli/load/options.h"
#include "cli/load/pacer.h"

namespace penstock::cli::load {

/// One line that says how a run stands: how far it is, what is in flight, and the rates and the
/// mean TTFT of the last kLines lines. Not thread safe.
class Progress final {
 public:
  Progress(const LoadOptions& options, const Window& window, const LiveCounters& live)
      : options_(options), window_(window), live_(live) {}

  /// Padded to cover the line before it; without newline. A content event counts as a token here.
  [[nodiscard]] std::string line(TimePoint now);

  static constexpr std::size_t kLines = 6;

 private:
  struct Snapshot {
    TimePoint at;
    std::uint64_t ended = 0;
    std::uint64_t content_events = 0;
    std::uint64_t ttft_count = 0;
    std::int64_t ttft_sum_ns = 0;
  };

  [[nodiscard]] double fraction(TimePoint now) const;

  const LoadOptions& options_;
  const Window& window_;
  const LiveCounters& live_;
  std::deque<Snapshot> recent_;  // at most kLines, the oldest first
  std::size_t width_ = 0;
};

}  // namespace penstock::cli::load
