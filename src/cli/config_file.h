#pragma once

#include <string>

#include "base/result.h"

namespace CLI {
class App;
}

namespace penstock::cli {

/// Sets options of `sub` from a TOML file whose keys are their long names ("max-tokens-default"),
/// at top level or under [NAME OF THE SUBCOMMAND]. What the command line or the environment has set
/// already stays: call it once both are read. Fails with what is wrong, naming file and key; some
/// options may have been set by then.
Result<void> apply_config_file(CLI::App& sub, const std::string& path);

}  // namespace penstock::cli
