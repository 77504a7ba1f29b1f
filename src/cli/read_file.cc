#include "cli/read_file.h"

#include <fstream>
#include <sstream>
#include <utility>

namespace penstock::cli {

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || (text << file.rdbuf()).bad()) return fail(Code::kNotFound, "cannot read " + path);
  return std::move(text).str();
}

}  // namespace penstock::cli
