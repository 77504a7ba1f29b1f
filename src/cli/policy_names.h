#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace penstock::cli {

/// Of all the router's policies, the default first.
[[nodiscard]] std::vector<std::string> policy_names();
/// A line a policy, for --help.
[[nodiscard]] std::string policy_list();
/// Fails with kInvalidArgument, and what may have been meant, when --policy names none.
Result<void> check_policy(const std::string& name);

}  // namespace penstock::cli
