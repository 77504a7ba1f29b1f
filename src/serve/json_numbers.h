#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>

namespace penstock::serve {

/// With three decimals at most; null for what is no number, since JSON has no name for it.
[[nodiscard]] inline std::string json_number(double value) {
  if (!std::isfinite(value)) return "null";
  return fmt::format("{}", std::round(value * 1000) / 1000);
}

}  // namespace penstock::serve
