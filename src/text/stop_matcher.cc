#include "text/stop_matcher.h"

#include <algorithm>

namespace penstock::text {

bool StopMatcher::add(std::string_view text, std::string& out) {
  if (stops_.empty()) {
    out += text;
    return false;
  }
  held_ += text;
  // The stop string that is complete first wins, as if the text came byte by byte.
  std::size_t start = std::string::npos;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < start)) {
      start = at;
      end = at + stop.size();
    }
  }
  if (start != std::string::npos) {
    out.append(held_, 0, start);
    held_.clear();
    return true;
  }
  // Keep the longest tail that begins some stop string.
  std::size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n)) {
        keep = n;
        break;
      }
    }
  }
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopMatcher::finish(std::string& out) {
  out += held_;
  held_.clear();
}

}  // namespace penstock::text
