#include "net/internal/header_scanner.h"

namespace penstock::net {

HeaderScanner::Found HeaderScanner::scan(std::string_view bytes) noexcept {
  while (true) {
    const auto newline = bytes.find('\n', scanned_bytes_);
    if (newline == std::string_view::npos) {
      scanned_bytes_ = bytes.size();
      return Found::kNothingYet;
    }
    const bool bare = newline == line_start_ || bytes[newline - 1] != '\r';
    const char first = bytes[line_start_];
    const bool folded = line_start_ > 0 && (first == ' ' || first == '\t');
    if (bare || folded) return Found::kMalformed;
    scanned_bytes_ = newline + 1;
    if (newline == line_start_ + 1) return Found::kEnd;
    line_start_ = newline + 1;
  }
}

}  // namespace penstock::net
