#pragma once

#include "cli/command_line.h"

namespace penstock::cli {

/// Each subcommand adds itself and its flags.
void add_serve(CommandLine& line);
void add_worker(CommandLine& line);
void add_bench(CommandLine& line);
void add_simulate(CommandLine& line);
void add_top(CommandLine& line);
void add_version(CommandLine& line);

}  // namespace penstock::cli
