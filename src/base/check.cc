#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace penstock {

void check_failed(const char* expression, const std::string& detail, std::source_location where) {
  std::fprintf(stderr, "CHECK failed at %s:%u (%s): %s%s%s\n", where.file_name(),
               static_cast<unsigned>(where.line()), where.function_name(), expression,
               detail.empty() ? "" : ": ", detail.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace penstock
