#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "net/internal/request_parser.h"

// The first byte says how long the pieces are, and whether bodies are received in place: state,
// fault and request must be those of the whole.

namespace {

using penstock::net::HttpRequest;
using penstock::net::RequestParser;

struct Outcome {
  RequestParser::State state{};
  int status = 0;
  std::size_t taken = 0;
  HttpRequest request;
};

bool ended(const RequestParser& parser) {
  return parser.state() == RequestParser::State::kDone ||
         parser.state() == RequestParser::State::kFailed;
}

void run(std::string_view text, std::size_t piece_bytes, bool in_place, Outcome& outcome) {
  RequestParser parser(256, 512);
  parser.begin(outcome.request);
  std::string held;
  while (!text.empty() && !ended(parser)) {
    const std::string_view piece = text.substr(0, piece_bytes);
    const auto space = in_place && held.empty() ? parser.body_space() : std::span<char>();
    if (!space.empty()) {
      const std::size_t fits = std::min(space.size(), piece.size());
      std::copy_n(piece.begin(), fits, space.begin());
      parser.body_received(fits);
      outcome.taken += fits;
      text.remove_prefix(fits);
    } else {
      held += piece;
      text.remove_prefix(piece.size());
      const std::size_t taken = parser.feed(held);
      CHECK_LE(taken, held.size());
      outcome.taken += taken;
      held.erase(0, taken);
    }
  }
  outcome.state = parser.state();
  if (outcome.state == RequestParser::State::kFailed) outcome.status = parser.fault().status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  Outcome whole;
  Outcome split;
  run(text, text.size(), false, whole);
  run(text, 1 + data[0] % 64, data[0] >= 128, split);
  CHECK(whole.state == split.state);
  CHECK_EQ(whole.status, split.status);
  if (whole.state != RequestParser::State::kDone) return 0;
  CHECK_EQ(whole.taken, split.taken);
  CHECK(whole.request.headers == split.request.headers);
  CHECK(whole.request.target == split.request.target);
  CHECK(whole.request.body == split.request.body);
  CHECK_LE(whole.request.body.size(), 512U);
  CHECK_GE(whole.request.body.capacity(),
           whole.request.body.size() + penstock::net::kBodyPaddingBytes);
  return 0;
}
