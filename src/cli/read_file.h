#pragma once

#include <string>

#include "base/result.h"

namespace penstock::cli {

/// The bytes of a file, whole. Fails (kNotFound) with its path in the message.
[[nodiscard]] Result<std::string> read_file(const std::string& path);

}  // namespace penstock::cli
