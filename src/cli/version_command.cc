#include <fmt/format.h>
#include <llama.h>

#include <cstdio>

#include "base/version.h"
#include "cli/command.h"

namespace penstock::cli {

void add_version(CommandLine& line) {
  Command& command =
      line.add_command("version", "Show the version of Penstock and of its engine", "PENSTOCK_");
  command.on_run([] {
    fmt::print("penstock {}\nllama.cpp state version {}, {}\n", kVersion, LLAMA_STATE_SEQ_VERSION,
               llama_print_system_info());
    return 0;
  });
}

}  // namespace penstock::cli
