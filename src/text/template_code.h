#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace penstock::text {

/// The code inside {{ }} and {% %} of a Jinja template, read just well enough to say what it cannot
/// do. When in doubt it may do everything.
class TemplateCode final {
 public:
  explicit TemplateCode(std::string_view source);

  /// Whether it sees no more of a content than whether it is empty or equal to one of strings()
  /// (and may trim it).
  [[nodiscard]] bool is_transparent() const;

  /// Whether it can tell of a message's place only if it is the first or the last one, so that what
  /// it writes between two contents depends on their messages and the first one alone.
  [[nodiscard]] bool is_local() const;

  [[nodiscard]] bool uses(std::string_view name) const { return count(name) > 0; }

  /// Its string literals, escapes undone.
  [[nodiscard]] const std::vector<std::string>& strings() const noexcept { return strings_; }

 private:
  [[nodiscard]] std::size_t count(std::string_view name) const;
  [[nodiscard]] std::size_t in_skeleton(std::string_view part) const;
  std::size_t read_expression(std::string_view source, std::size_t i);

  std::vector<std::string> names_;  // identifiers, in order
  std::vector<std::string> strings_;
  std::string skeleton_;  // the code without white space; a name is followed by one, a string is '
};

}  // namespace penstock::text
