#pragma once

#include <CLI/CLI.hpp>

namespace penstock::cli {

/// Each subcommand adds itself and its flags to `app` and leaves in `exit_status` what it ended
/// with: 0 done, 1 failed, 2 wrong usage. CLI11 stays inside cli/.
void add_serve(CLI::App& app, int& exit_status);
void add_worker(CLI::App& app, int& exit_status);
void add_bench(CLI::App& app, int& exit_status);
void add_simulate(CLI::App& app, int& exit_status);
void add_top(CLI::App& app, int& exit_status);
void add_version(CLI::App& app, int& exit_status);

}  // namespace penstock::cli
