#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace penstock::net {

/// One server-sent event as a client sees it (WHATWG HTML, "event stream interpretation").
struct SseEvent {
  std::string_view event;  // empty: "message"
  std::string_view data;   // lines joined by '\n'
};

/// Incremental parser of an event stream. Any split of the input gives the same events; what an
/// unfinished stream ends with is no event. Bytes are passed on as they are, valid UTF-8 or not.
/// Not thread safe. An event larger than `event_bytes_max` makes feed() return false for good.
class SseParser final {
 public:
  explicit SseParser(std::size_t event_bytes_max = 16 * 1024 * 1024)
      : event_bytes_max_(event_bytes_max) {}

  /// Calls `on_event` for each event completed by `bytes`; views are valid during the call.
  bool feed(std::string_view bytes, const std::function<void(const SseEvent&)>& on_event);

 private:
  void take_line(std::string_view line, const std::function<void(const SseEvent&)>& on_event);
  void dispatch(const std::function<void(const SseEvent&)>& on_event);

  std::size_t event_bytes_max_;
  std::string line_;  // an unfinished line
  std::string data_;
  std::string event_;
  bool has_data_ = false;
  bool skip_lf_ = false;  // the last byte was CR: a following LF belongs to it
  bool at_start_ = true;  // a byte-order mark may still come
  bool failed_ = false;
};

}  // namespace penstock::net
