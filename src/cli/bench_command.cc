#include "cli/command.h"

namespace penstock::cli {

void add_bench(CLI::App&, int&) {}

}  // namespace penstock::cli
