#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/result.h"

namespace penstock::bench {

/// What `result` holds; without it, what is wrong is printed and the program ends. Any thread: so
/// it ends without destructors, for which others would have to stop first.
template <typename T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  fmt::print(stderr, "{}\n", result.error().message);
  std::fflush(stdout);
  std::_Exit(1);
}

}  // namespace penstock::bench
