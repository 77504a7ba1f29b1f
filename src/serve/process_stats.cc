#include "serve/process_stats.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

namespace penstock::serve {

ProcessStats read_process_stats() {
  ProcessStats stats;
  std::uint64_t pages = 0;
  std::uint64_t resident_pages = 0;
  std::ifstream file("/proc/self/statm");
  if (file >> pages >> resident_pages) {
    stats.resident_bytes = resident_pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  }
  std::error_code failure;
  const std::filesystem::directory_iterator open("/proc/self/fd", failure);
  if (!failure) {
    // One of them reads the folder.
    stats.open_descriptors = static_cast<std::uint64_t>(std::distance(begin(open), end(open))) - 1;
  }
  return stats;
}

}  // namespace penstock::serve
