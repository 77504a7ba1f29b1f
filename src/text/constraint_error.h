#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::text {

/// "<param>: more than <limit> <what>", as kInvalidArgument about that field. Any thread.
inline std::unexpected<Error> too_much(std::string_view what, std::size_t limit,
                                       std::string_view param) {
  return fail(Code::kInvalidArgument, fmt::format("{}: more than {} {}", param, limit, what),
              std::string(param));
}

}  // namespace penstock::text
