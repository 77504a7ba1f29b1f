#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// CLI11 stays in command_line.cc: it costs half a minute to compile in each file that reads it.

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace penstock::cli {

/// A flag that was declared, to be told more of. A handle; its command owns the flag.
class Flag final {
 public:
  explicit Flag(CLI::Option& option) : option_(&option) {}

  /// Values outside [low, high] are refused.
  template <std::integral T>
  Flag range(T low, T high) {
    return between(std::int64_t{low}, std::int64_t{high});
  }
  Flag range(double low, double high);
  Flag one_of(std::initializer_list<const char*> values);
  Flag existing_file();
  /// Several values in one argument, with `separator` between.
  Flag separated_by(char separator);
  /// The command is wrong without it.
  Flag required();
  /// The command is wrong with both.
  Flag excludes(const Flag& other);

 private:
  Flag between(std::int64_t low, std::int64_t high);

  CLI::Option* option_;
};

/// A subcommand and its flags. One declaration gives a flag, its environment name (prefix and
/// NAME), its key in a --config file, its default and its help. Targets must outlive the
/// CommandLine.
class Command final {
 public:
  Command(CLI::App& sub, const char* env_prefix);

  void footer(const std::string& text);
  /// Heads the flags that follow in the help.
  void group(const char* name) { group_ = name; }

  /// T: std::string, std::vector<std::string>, double, or an integer of 16 bits or more. `flag` is
  /// "--name", or "name,--name" for one that may also be given by its place.
  template <class T>
  Flag add(const char* flag, T& target, const char* help);
  /// Whose default is not a value of its own. T: double or std::uint32_t.
  template <class T>
  Flag add_optional(const char* flag, std::optional<T>& target, const char* help);
  /// Given or not: "--name", or "--name,!--no-name".
  void add_switch(const char* flag, bool& target, const char* help);
  /// "NAME": told by its place alone, in neither environment nor file.
  Flag add_argument(const char* name, std::string& target, const char* help);
  /// Adds --config: a TOML file whose keys are the flags' names ("max-tokens-default"), at top
  /// level or under [NAME OF THE SUBCOMMAND]. Command line and environment win.
  void add_config_file();

  /// Whether "--name" was given by the command line, the environment or a file; known once all of
  /// them have been read. It must have been added.
  [[nodiscard]] bool given(const char* flag) const;

  /// What the command does; gives the exit status: 0 done, 1 failed, 2 wrong usage.
  void on_run(std::function<int()> run) { run_ = std::move(run); }

 private:
  friend class CommandLine;

  CLI::Option& settle(CLI::Option* option);
  Result<void> read_config_file();

  CLI::App& sub_;
  const std::string env_prefix_;
  std::string group_ = "Options";  // CLI11's own
  std::string config_file_;
  std::function<int()> run_;
};

/// Says on standard error why `command` ends, and gives `status`, its exit status.
int refuse(std::string_view command, const Error& error, int status);

/// A program of subcommands.
class CommandLine final {
 public:
  CommandLine(const char* program, const char* description, const char* version);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  Command& add_command(const char* name, const std::string& description, const char* env_prefix);

  /// Reads arguments (without the program's name), environment and --config file into the targets.
  /// Gives what is to be run: a command, or what prints the help that was asked for. Fails with
  /// lines for standard error, which name what is wrong and a name that may have been meant.
  Result<std::function<int()>> parse(const std::vector<std::string>& arguments);

 private:
  std::string explain(const std::string& problem, const std::vector<std::string>& arguments) const;

  std::unique_ptr<CLI::App> app_;
  std::vector<std::unique_ptr<Command>> commands_;
};

}  // namespace penstock::cli
