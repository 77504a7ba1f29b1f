#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace penstock::text {

/// Looks for stop strings in text that arrives in pieces. What could still be the beginning of one
/// is held back, so a stop string never shows, wherever the pieces are cut: any split of the same
/// text gives the same result. One sequence, one thread.
class StopMatcher final {
 public:
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Appends to `out` the text that is certain to come before any stop string. True: a stop string
  /// was found (the one that is complete first, of two the longer); the rest is dropped.
  bool add(std::string_view text, std::string& out);
  /// Appends what was held back.
  void finish(std::string& out);

  [[nodiscard]] bool empty() const noexcept { return stops_.empty(); }

 private:
  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace penstock::text
