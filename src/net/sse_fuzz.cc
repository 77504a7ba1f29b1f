#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "net/sse.h"

// The first byte says how long the pieces are: the events must be those of the whole.

namespace {

using Events = std::vector<std::pair<std::string, std::string>>;

std::pair<bool, Events> run(std::string_view text, std::size_t piece_bytes) {
  penstock::net::SseParser parser(64);
  Events events;
  bool good = true;
  for (std::size_t at = 0; at < text.size(); at += piece_bytes) {
    good = parser.feed(text.substr(at, piece_bytes), [&](const penstock::net::SseEvent& event) {
      events.emplace_back(event.event, event.data);
    });
  }
  return {good, events};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  CHECK(run(text, 1 + data[0] % 16) == run(text, text.size()));
  return 0;
}
