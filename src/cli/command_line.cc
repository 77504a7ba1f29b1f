#include "cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <system_error>
#include <type_traits>
#include <utility>

#include "cli/suggest.h"

namespace penstock::cli {
namespace {

/// CLI::Range lets it through, since nothing is less or more than it.
std::string refuse_nan(const std::string& text) {
  double number = 0;
  const bool is_nan = CLI::detail::lexical_cast(text, number) && std::isnan(number);
  return is_nan ? text + " is not a number" : "";
}

/// Names of `sub`'s flags, for suggestions. `in_file`: only those that may be keys of a file.
std::vector<std::string> flags_of(const CLI::App& sub, bool in_file) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : sub.get_options()) {
    if (in_file && !option->get_configurable()) continue;
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

/// All subcommands, and the flags of the one that was named.
std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* sub : app.get_subcommands({})) {
    names.push_back(sub->get_name());
    if (sub->parsed()) std::ranges::copy(flags_of(*sub, false), std::back_inserter(names));
  }
  return names;
}

/// "unknown key prot (did you mean port?)"
std::string unknown_key(const CLI::App& sub, const std::string& key) {
  // Compared as flags: the dashes leave short keys room for a mistake.
  const std::string close = closest("--" + key, flags_of(sub, true));
  if (close.empty()) return fmt::format("unknown key {}", key);
  return fmt::format("unknown key {} (did you mean {}?)", key, close.substr(2));
}

/// CLI11 marks where a section begins and ends with items of these names.
bool is_section_mark(const CLI::ConfigItem& item) { return item.name == "++" || item.name == "--"; }

Result<void> apply(CLI::App& sub, const CLI::ConfigItem& item) {
  if (item.parents.size() > 1 || (item.parents.size() == 1 && item.parents[0] != sub.get_name())) {
    return fail(Code::kInvalidArgument,
                fmt::format("unknown section [{}] (there is only [{}])",
                            CLI::detail::join(item.parents, "."), sub.get_name()));
  }
  if (is_section_mark(item)) return {};
  CLI::Option* option = sub.get_option_no_throw("--" + item.name);
  if (option == nullptr || !option->get_configurable()) {
    return fail(Code::kInvalidArgument, unknown_key(sub, item.name));
  }
  if (option->count() > 0) return {};
  if (option->get_expected_max() == 0) {
    option->add_result(
        option->get_flag_value(item.name, item.inputs.empty() ? "true" : item.inputs[0]));
  } else {
    option->add_result(item.inputs);
  }
  option->run_callback();
  return {};
}

std::function<int()> prints(std::string text) {
  return [text = std::move(text)] {
    fmt::print("{}", text);
    return 0;
  };
}

}  // namespace

Flag Flag::between(std::int64_t low, std::int64_t high) {
  option_->check(CLI::Range(low, high));
  return *this;
}
Flag Flag::range(double low, double high) {
  option_->check(CLI::Range(low, high));
  return *this;
}
Flag Flag::one_of(std::initializer_list<const char*> values) {
  option_->check(CLI::IsMember(std::vector<std::string>(values.begin(), values.end())));
  return *this;
}
Flag Flag::existing_file() {
  option_->check(CLI::ExistingFile);
  return *this;
}
Flag Flag::separated_by(char separator) {
  option_->delimiter(separator);
  return *this;
}
Flag Flag::required() {
  option_->required();
  return *this;
}
Flag Flag::excludes(const Flag& other) {
  option_->excludes(other.option_);
  return *this;
}

Command::Command(CLI::App& sub, const char* env_prefix) : sub_(sub), env_prefix_(env_prefix) {}

void Command::footer(const std::string& text) { sub_.footer(text); }

template <class T>
Flag Command::add(const char* flag, T& target, const char* help) {
  CLI::Option& option = settle(sub_.add_option(flag, target, help)->capture_default_str());
  if constexpr (std::is_floating_point_v<T>) option.check(refuse_nan);
  return Flag(option);
}
template Flag Command::add(const char*, std::string&, const char*);
template Flag Command::add(const char*, std::vector<std::string>&, const char*);
template Flag Command::add(const char*, double&, const char*);
template Flag Command::add(const char*, std::uint16_t&, const char*);
template Flag Command::add(const char*, std::int32_t&, const char*);
template Flag Command::add(const char*, std::uint32_t&, const char*);
template Flag Command::add(const char*, std::uint64_t&, const char*);

template <class T>
Flag Command::add_optional(const char* flag, std::optional<T>& target, const char* help) {
  CLI::Option& option = settle(sub_.add_option(flag, target, help));
  if constexpr (std::is_floating_point_v<T>) option.check(refuse_nan);
  return Flag(option);
}
template Flag Command::add_optional(const char*, std::optional<double>&, const char*);
template Flag Command::add_optional(const char*, std::optional<std::uint32_t>&, const char*);

void Command::add_switch(const char* flag, bool& target, const char* help) {
  settle(sub_.add_flag(flag, target, help));
}

Flag Command::add_argument(const char* name, std::string& target, const char* help) {
  return Flag(*sub_.add_option(name, target, help)->configurable(false));
}

void Command::add_config_file() {
  settle(sub_.add_option("--config", config_file_,
                         "TOML file with any of these flags as keys; unknown keys are errors"))
      .configurable(false);
}

bool Command::given(const char* flag) const { return sub_.get_option(flag)->count() > 0; }

CLI::Option& Command::settle(CLI::Option* option) {
  std::string env = env_prefix_;
  for (const char c : option->get_lnames().front()) {
    env += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  option->envname(env)->group(group_);
  return *option;
}

Result<void> Command::read_config_file() {
  const std::string& path = config_file_;
  if (path.empty()) return {};
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    return fail(Code::kInvalidArgument, fmt::format("--config {}: is a folder, not a file", path));
  }
  try {
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path)) {
      Result<void> applied = apply(sub_, item);
      if (applied) continue;
      return fail(Code::kInvalidArgument, fmt::format("{}: {}", path, applied.error().message));
    }
    for (const CLI::Option* option : sub_.get_options()) {
      for (const CLI::Option* other : option->get_excludes()) {
        if (option->count() == 0 || other->count() == 0) continue;
        return fail(Code::kInvalidArgument,
                    fmt::format("{}: {} excludes {}", path, option->get_name(), other->get_name()));
      }
    }
  } catch (const std::exception& problem) {  // a value out of range, a file that cannot be read
    return fail(Code::kInvalidArgument, fmt::format("{}: {}", path, problem.what()));
  }
  return {};
}

int refuse(std::string_view command, const Error& error, int status) {
  fmt::print(stderr, "penstock {}: {}\n", command, error.message);
  return status;
}

CommandLine::CommandLine(const char* program, const char* description, const char* version)
    : app_(std::make_unique<CLI::App>(description, program)) {
  app_->require_subcommand(1);
  app_->get_formatter()->column_width(34);
  app_->set_version_flag("--version", version);
}
CommandLine::~CommandLine() = default;

Command& CommandLine::add_command(const char* name, const std::string& description,
                                  const char* env_prefix) {
  CLI::App& sub = *app_->add_subcommand(name, description);
  return *commands_.emplace_back(std::make_unique<Command>(sub, env_prefix));
}

Result<std::function<int()>> CommandLine::parse(const std::vector<std::string>& arguments) {
  try {
    app_->parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // as CLI11 wants
  } catch (const CLI::CallForVersion& version) {
    return prints(version.what() + std::string("\n"));
  } catch (const CLI::CallForHelp&) {
    return prints(app_->help());
  } catch (const CLI::ParseError& problem) {
    return fail(Code::kInvalidArgument, explain(problem.what(), arguments));
  }
  const CLI::App* chosen = app_->get_subcommands().front();
  Command& command =
      **std::ranges::find_if(commands_, [&](const auto& one) { return &one->sub_ == chosen; });
  if (const Result<void> read = command.read_config_file(); !read) {
    return fail(Code::kInvalidArgument, fmt::format("{} {}: {}\n", app_->get_name(),
                                                    chosen->get_name(), read.error().message));
  }
  return command.run_;
}

std::string CommandLine::explain(const std::string& problem,
                                 const std::vector<std::string>& arguments) const {
  std::string message = problem;
  if (!arguments.empty() && !arguments[0].starts_with('-') && app_->get_subcommands().empty()) {
    message = fmt::format("there is no subcommand {}", arguments[0]);
  }
  for (const std::string& argument : arguments) {
    const std::string word = argument.substr(0, argument.find('='));
    if (message.find(word) == std::string::npos) continue;
    const std::string close = closest(word, names_of(*app_));
    if (close.empty()) continue;
    message += fmt::format(" (did you mean {}?)", close);
    break;
  }
  return fmt::format("{}: {}\nTry --help.\n", app_->get_name(), message);
}

}  // namespace penstock::cli
