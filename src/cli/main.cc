#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/version.h"
#include "cli/command.h"

namespace {

constexpr const char* kDescription =
    "Penstock serves language models in GGUF with an OpenAI-compatible API.\n"
    "\n"
    "  penstock serve --model demo          serve a small real model on http://127.0.0.1:8000\n"
    "  penstock serve --model model.gguf    serve your own\n"
    "  penstock worker demo --join 127.0.0.1:7000  a worker of its own, for serve --join-listen\n"
    "  penstock bench --url http://127.0.0.1:8000\n"
    "  penstock simulate trace.jsonl --workers 8 --policy all\n"
    "  penstock top --url http://127.0.0.1:8000  watch its workers\n"
    "\n"
    "Every flag can also be set in the environment: of serve as PENSTOCK_PORT=8080 for --port "
    "8080,\n"
    "of the others with their name (PENSTOCK_BENCH_URL); serve's also in a TOML file given with\n"
    "--config. A flag beats the environment, and the environment beats the file.";

/// glibc raises the size from which it maps memory apart to that of the largest block freed so far.
/// After one large request body, buffers of megabytes then come from heaps that fragment and never
/// shrink: 60 MiB more after the hostile-input table than with fixed sizes (7 MiB). The size above
/// which a heap's free end is given back counts once a thread: 1 MiB against 4 is 3 MiB less under
/// many 240 kB prompts, at the same CPU time a turn; blocks of 240 kB mapped apart would take
/// another 2 MiB less, and a quarter more CPU time.
void give_large_blocks_back() {
  // NOLINTBEGIN(concurrency-mt-unsafe): there is one thread yet
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  // NOLINTEND(concurrency-mt-unsafe)
}

/// Of a process that is started with a standard stream closed, the next file or socket would get
/// its number, and with it what is printed and logged.
void open_standard_streams() {
  int opened = open("/dev/null", O_RDWR);
  while (opened >= 0 && opened <= STDERR_FILENO) opened = open("/dev/null", O_RDWR);
  if (opened >= 0) close(opened);
}

/// A report that did not reach its file must not look like one that did.
int printed(int exit_status) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_status;
  fmt::print(stderr, "penstock: cannot write to standard output\n");
  return exit_status == 0 ? 1 : exit_status;
}

}  // namespace

int main(int argc, char** argv) {
  open_standard_streams();
  give_large_blocks_back();
  penstock::cli::CommandLine line("penstock", kDescription, penstock::kVersion);
  penstock::cli::add_serve(line);
  penstock::cli::add_worker(line);
  penstock::cli::add_bench(line);
  penstock::cli::add_simulate(line);
  penstock::cli::add_top(line);
  penstock::cli::add_version(line);
  try {
    const auto run = line.parse({argv + 1, argv + argc});
    if (run) return printed((*run)());
    fmt::print(stderr, "{}", run.error().message);
    return 2;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "penstock: {}\n", problem.what());
    return 1;
  }
}
