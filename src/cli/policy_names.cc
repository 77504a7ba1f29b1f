#include "cli/policy_names.h"

#include <fmt/format.h>

#include "cli/suggest.h"
#include "router/policy.h"

namespace penstock::cli {

std::vector<std::string> policy_names() {
  std::vector<std::string> names;
  for (const router::PolicyEntry& entry : router::policies()) names.emplace_back(entry.name);
  return names;
}

std::string policy_list() {
  std::string list;
  for (const router::PolicyEntry& entry : router::policies()) {
    list += fmt::format("  {:<18} {}\n", entry.name, entry.description);
  }
  return list;
}

Result<void> check_policy(const std::string& name) {
  if (router::find_policy(name) != nullptr) return {};
  const std::string close = closest(name, policy_names());
  return fail(
      Code::kInvalidArgument,
      fmt::format("--policy: there is no {}{}", name,
                  close.empty() ? " (see --help)" : fmt::format(" (did you mean {}?)", close)));
}

}  // namespace penstock::cli
