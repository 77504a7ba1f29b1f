#pragma once

#include <string>
#include <string_view>

#include "serve/dispatcher.h"

namespace penstock::serve {

/// {"model":...,"policy":...,"block_tokens":...,"index":{...},"workers":[...]}, as GET
/// /debug/workers answers. `penstock top` reads it.
[[nodiscard]] std::string workers_json(std::string_view model, const DispatcherView& view);

}  // namespace penstock::serve
