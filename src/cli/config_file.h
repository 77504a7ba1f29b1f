#pragma once

#include <functional>
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

/// What a subcommand's callback does: takes in `path` (empty: no file), then runs. Gives the exit
/// status; 2, and what is wrong on standard error, if the file cannot be taken in.
int run_configured(CLI::App& sub, const std::string& path, const std::function<int()>& run);

}  // namespace penstock::cli
