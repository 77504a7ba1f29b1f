#include "net/internal/answer_head.h"

#include <fmt/format.h>

#include <boost/beast/http/status.hpp>
#include <iterator>

namespace penstock::net {

void append_field_text(std::string& out, std::string_view text) {
  const std::size_t begin = out.size();
  out.append(text);
  for (std::size_t i = begin; i < out.size(); ++i) {
    const auto c = static_cast<unsigned char>(out[i]);
    if ((c < 0x20 && c != '\t') || c == 0x7f) out[i] = ' ';
  }
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  append_field_text(out, name);
  out.append(": ");
  append_field_text(out, value);
  out.append("\r\n");
}

void append_head(std::string& out, const AnswerHead& head) {
  const auto reason =
      boost::beast::http::obsolete_reason(static_cast<boost::beast::http::status>(head.status));
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {} {}\r\n", head.status,
                 std::string_view(reason.data(), reason.size()));
  if (!head.content_type.empty()) append_header(out, "Content-Type", head.content_type);
  for (const HttpHeader& header : head.headers) append_header(out, header.name, header.value);
  if (!head.request_id.empty()) append_header(out, "X-Request-Id", head.request_id);
  out.append(head.lines);
  if (head.content_length && has_body(head.status)) {
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", *head.content_length);
  }
  if (head.chunked) out.append("Transfer-Encoding: chunked\r\n");
  if (!head.keep_alive) {
    out.append("Connection: close\r\n");
  } else if (head.http_1_0) {
    out.append("Connection: keep-alive\r\n");
  }
  out.append("\r\n");
}

ChunkSizeLine::ChunkSizeLine(std::size_t size_bytes) noexcept {
  begin_ = line_.size();
  line_[--begin_] = '\n';
  line_[--begin_] = '\r';
  do {
    line_[--begin_] = "0123456789abcdef"[size_bytes % 16];
    size_bytes /= 16;
  } while (size_bytes > 0);
}

}  // namespace penstock::net
