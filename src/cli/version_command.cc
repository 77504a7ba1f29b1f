#include <fmt/format.h>
#include <llama.h>

#include <cstdio>

#include "base/version.h"
#include "cli/command.h"

namespace penstock::cli {

void add_version(CLI::App& app, int&) {
  auto* sub = app.add_subcommand("version", "Show the version of Penstock and of its engine");
  sub->callback([] {
    fmt::print("penstock {}\nllama.cpp state version {}, {}\n", kVersion, LLAMA_STATE_SEQ_VERSION,
               llama_print_system_info());
  });
}

}  // namespace penstock::cli
