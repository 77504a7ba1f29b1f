#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "net/internal/response_parser.h"

// The first byte says how long the pieces are, whether the request was a HEAD, and whether the
// input ends: state, status and body must be those of the whole.

namespace {

using penstock::net::ResponseParser;

class Kept final : public penstock::net::ResponseSink {
 public:
  [[nodiscard]] bool on_head(int status) override {
    CHECK_EQ(status_, 0);
    status_ = status;
    return true;
  }
  [[nodiscard]] bool on_body_piece(std::string_view bytes) override {
    CHECK(status_ != 0);
    CHECK(!bytes.empty());
    body_ += bytes;
    return true;
  }
  friend bool operator==(const Kept& a, const Kept& b) {
    return a.status_ == b.status_ && a.body_ == b.body_;
  }

 private:
  int status_ = 0;
  std::string body_;
};

ResponseParser::State run(std::string_view text, std::size_t piece_bytes, bool to_head, bool ends,
                          Kept& kept) {
  ResponseParser parser(kept);
  parser.begin(to_head);
  std::string held;
  while (!text.empty() && (parser.state() == ResponseParser::State::kHeader ||
                           parser.state() == ResponseParser::State::kBody)) {
    const std::string_view piece = text.substr(0, piece_bytes);
    held += piece;
    text.remove_prefix(piece.size());
    const std::size_t taken = parser.feed(held);
    CHECK_LE(taken, held.size());
    held.erase(0, taken);
  }
  if (ends) parser.end_of_input();
  return parser.state();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const bool to_head = (data[0] & 64) != 0;
  const bool ends = (data[0] & 128) != 0;
  Kept whole;
  Kept split;
  const auto state = run(text, text.size(), to_head, ends, whole);
  CHECK(run(text, 1 + data[0] % 64, to_head, ends, split) == state);
  if (state == ResponseParser::State::kDone) CHECK(whole == split);
  return 0;
}
