#include "net/sse.h"

namespace penstock::net {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

bool SseParser::feed(std::string_view bytes, const std::function<void(const SseEvent&)>& on_event) {
  while (!bytes.empty() && !failed_) {
    if (skip_lf_ && bytes.front() == '\n') bytes.remove_prefix(1);
    skip_lf_ = false;
    const auto end = bytes.find_first_of("\r\n");
    const std::string_view piece = bytes.substr(0, end);
    // The same sum whether a line came whole or in pieces: a split must not decide what is too
    // much.
    if (line_.size() + piece.size() + data_.size() + event_.size() > event_bytes_max_) {
      failed_ = true;
      break;
    }
    if (end == std::string_view::npos) {
      line_.append(piece);
      break;
    }
    skip_lf_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    if (line_.empty()) {
      take_line(piece, on_event);
    } else {
      line_.append(piece);
      take_line(line_, on_event);
      line_.clear();
    }
  }
  return !failed_;
}

void SseParser::take_line(std::string_view line,
                          const std::function<void(const SseEvent&)>& on_event) {
  if (at_start_ && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  at_start_ = false;
  if (line.empty()) {
    dispatch(on_event);
    return;
  }
  const auto colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  std::string_view value;
  if (colon != std::string_view::npos) value = line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (field == "data") {
    if (has_data_) data_ += '\n';
    data_ += value;
    has_data_ = true;
  } else if (field == "event") {
    event_ = value;
  }
  // An empty field name is a comment; id and retry serve reconnection, which nobody here does.
}

void SseParser::dispatch(const std::function<void(const SseEvent&)>& on_event) {
  if (has_data_) on_event({.event = event_, .data = data_});
  data_.clear();
  event_.clear();
  has_data_ = false;
}

}  // namespace penstock::net
