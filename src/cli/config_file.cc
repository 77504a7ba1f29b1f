#include "cli/config_file.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <system_error>
#include <vector>

#include "cli/suggest.h"

namespace penstock::cli {
namespace {

/// CLI11 marks where a section begins and ends with items of these names.
bool is_section_mark(const CLI::ConfigItem& item) { return item.name == "++" || item.name == "--"; }

std::vector<std::string> flags_of(const CLI::App& sub) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : sub.get_options()) {
    if (!option->get_configurable()) continue;
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  return flags;
}

/// "unknown key prot (did you mean port?)"
std::string unknown_key(const CLI::App& sub, const std::string& key) {
  // Compared as flags: the dashes leave short keys room for a mistake.
  const std::string close = closest("--" + key, flags_of(sub));
  if (close.empty()) return fmt::format("unknown key {}", key);
  return fmt::format("unknown key {} (did you mean {}?)", key, close.substr(2));
}

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

}  // namespace

Result<void> apply_config_file(CLI::App& sub, const std::string& path) {
  if (std::error_code ignored; std::filesystem::is_directory(path, ignored)) {
    return fail(Code::kInvalidArgument, fmt::format("--config {}: is a folder, not a file", path));
  }
  try {
    for (const CLI::ConfigItem& item : CLI::ConfigTOML().from_file(path)) {
      Result<void> applied = apply(sub, item);
      if (applied) continue;
      return fail(Code::kInvalidArgument, fmt::format("{}: {}", path, applied.error().message));
    }
  } catch (const std::exception& problem) {  // a value out of range, a file that cannot be read
    return fail(Code::kInvalidArgument, fmt::format("{}: {}", path, problem.what()));
  }
  return {};
}

int run_configured(CLI::App& sub, const std::string& path, const std::function<int()>& run) {
  if (!path.empty()) {
    if (const Result<void> read = apply_config_file(sub, path); !read) {
      fmt::print(stderr, "penstock {}: {}\n", sub.get_name(), read.error().message);
      return 2;
    }
  }
  return run();
}

}  // namespace penstock::cli
