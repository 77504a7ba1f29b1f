#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace penstock::net {

/// Finds the empty line that ends a header, so that the header can be parsed whole and once. Knows
/// no limit: its user bounds what it presents. Not thread safe.
///
/// Lines that end in a bare LF, and lines folded onto the next, are read differently by different
/// servers: neither is worth the risk, and both are malformed here.
class HeaderScanner final {
 public:
  enum class Found : std::uint8_t { kNothingYet, kEnd, kMalformed };

  /// Looks at `bytes`, which start with the header and with what the last call was shown.
  [[nodiscard]] Found scan(std::string_view bytes) noexcept;

  /// Of the header with its empty line, after kEnd.
  [[nodiscard]] std::size_t size_bytes() const noexcept { return scanned_bytes_; }

  /// Whether the first line is still being read.
  [[nodiscard]] bool in_first_line() const noexcept { return line_start_ == 0; }

 private:
  std::size_t scanned_bytes_ = 0;
  std::size_t line_start_ = 0;  // offset of the line that is being read
};

}  // namespace penstock::net
