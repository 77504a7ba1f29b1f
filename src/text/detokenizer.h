#pragma once

#include <string>
#include <string_view>

namespace penstock::text {

/// Turns a stream of tokens' bytes into a stream of whole characters: bytes that may still become a
/// character wait, bytes that never can become U+FFFD, and nothing is lost. The joined output of
/// any sequence of add() and one finish() is the UTF-8 repair of the joined token bytes.
/// One sequence, one thread.
class Detokenizer final {
 public:
  /// Appends to `out` the characters that `bytes` (a token's) complete.
  void add(std::string_view bytes, std::string& out);
  /// Appends what still waits (an unfinished character becomes U+FFFD).
  void finish(std::string& out);

 private:
  std::string waiting_;  // at most 3 bytes: the start of one character
};

/// Appends `bytes` to `out` with every maximal invalid part replaced by U+FFFD (Unicode 15, 3.9,
/// "substitution of maximal subparts"). Returns how many bytes at the end are the valid start of a
/// character and were left out.
std::size_t append_utf8(std::string_view bytes, std::string& out);

}  // namespace penstock::text
