#pragma once

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>
#include <type_traits>

namespace penstock::cli {

/// A check for flags of floating-point numbers: NaN lies in every range by CLI11's comparisons.
inline std::string refuse_nan(const std::string& text) {
  double number = 0;
  const bool is_nan = CLI::detail::lexical_cast(text, number) && std::isnan(number);
  return is_nan ? text + " is not a number" : "";
}

}  // namespace penstock::cli
