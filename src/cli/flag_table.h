#pragma once

#include <CLI/CLI.hpp>
#include <cctype>
#include <cmath>
#include <optional>
#include <string>
#include <type_traits>

namespace penstock::cli {

/// One declaration gives a flag, its environment name (`env_prefix`NAME), key in the file, and
/// help.
class FlagTable final {
 public:
  FlagTable(CLI::App& sub, std::string env_prefix)
      : sub_(sub), env_prefix_(std::move(env_prefix)) {}

  /// Heads the flags that follow in the help.
  void group(const char* name) { group_ = name; }

  template <class T>
  CLI::Option* add(const char* flag, T& target, const char* help) {
    return place<T>(sub_.add_option(flag, target, help)->capture_default_str());
  }
  /// Whose default is not a value of its own.
  template <class T>
  CLI::Option* add_optional(const char* flag, std::optional<T>& target, const char* help) {
    return place<T>(sub_.add_option(flag, target, help));
  }
  void add_flag(const char* flag, bool& target, const char* help) {
    place<bool>(sub_.add_flag(flag, target, help));
  }

 private:
  static std::string refuse_nan(const std::string& text) {
    double number = 0;
    const bool is_nan = CLI::detail::lexical_cast(text, number) && std::isnan(number);
    return is_nan ? text + " is not a number" : "";
  }

  template <class T>
  CLI::Option* place(CLI::Option* option) {
    // CLI::Range lets it through, since nothing is less or more than it.
    if constexpr (std::is_floating_point_v<T>) option->check(refuse_nan);
    std::string env = env_prefix_;
    for (const char c : option->get_lnames().front()) {
      env += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    return option->envname(env)->group(group_);
  }

  CLI::App& sub_;
  const std::string env_prefix_;
  std::string group_ = "Options";  // CLI11's own
};

}  // namespace penstock::cli
