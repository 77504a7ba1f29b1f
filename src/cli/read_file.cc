#include "cli/read_file.h"

#include <fstream>
#include <sstream>
#include <utility>

namespace penstock::cli {

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  file.peek();  // a folder opens, but cannot be read
  if (!file.is_open() || file.bad()) return fail(Code::kNotFound, "cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

}  // namespace penstock::cli
