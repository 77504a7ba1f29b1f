#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "net/http_server.h"

namespace penstock::net {

/// Status line and headers of one answer. A value; views live for the call that writes it.
struct AnswerHead {
  int status = 200;
  std::string_view content_type;              // empty: none
  std::optional<std::size_t> content_length;  // absent: a stream
  bool chunked = false;
  bool keep_alive = true;
  bool http_1_0 = false;  // the client's version, which needs keep-alive told
  std::span<const HttpHeader> headers;
  std::string_view request_id;  // empty: none
  std::string_view lines;       // more headers, each with the end of its line
};

/// Appends it, empty line included, to `out`. Control characters in header fields become spaces,
/// so that no value, whoever supplied it, can start a line of its own.
void append_head(std::string& out, const AnswerHead& head);

/// "name: value" and the end of the line.
void append_header(std::string& out, std::string_view name, std::string_view value);
/// Text that belongs on one line: control characters become spaces.
void append_field_text(std::string& out, std::string_view text);

/// Whether an answer of this status has a body, and so a length, at all (RFC 9110, 6.4.1).
[[nodiscard]] constexpr bool has_body(int status) noexcept {
  return status >= 200 && status != 204 && status != 304;
}

/// The size line in front of a chunk: "1f4\r\n".
class ChunkSizeLine final {
 public:
  explicit ChunkSizeLine(std::size_t size_bytes) noexcept;
  [[nodiscard]] std::string_view text() const noexcept {
    return std::string_view(line_.data(), line_.size()).substr(begin_);
  }

 private:
  std::array<char, 2 * sizeof(std::size_t) + 2> line_;
  std::size_t begin_;
};

}  // namespace penstock::net
