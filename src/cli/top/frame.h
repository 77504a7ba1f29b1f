#pragma once

#include <string>

#include "cli/top/sample.h"

namespace penstock::cli::top {

struct FrameStyle {
  bool colour = false;
  std::uint32_t columns = 100;  // lines are cut there
};

/// What the terminal shows: `now`, with rates and latencies of the time since `before` (null: rates
/// are not shown, latencies are of all time). Lines end with '\n'.
[[nodiscard]] std::string frame(const std::string& url, const Sample& now, const Sample* before,
                                const FrameStyle& style);

}  // namespace penstock::cli::top
