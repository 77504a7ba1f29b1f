#pragma once

#include <simdjson.h>

#include <functional>
#include <string_view>

#include "base/result.h"

namespace penstock::cli::load {

/// Calls `take` for each line of JSON that is not blank. Stops at the first failure, whose message
/// then says which line it was. The element is valid during the call.
Result<void> for_each_json_line(
    std::string_view text, const std::function<Result<void>(const simdjson::dom::element&)>& take);

}  // namespace penstock::cli::load
