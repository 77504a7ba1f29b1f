#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace penstock::cli {

/// The name nearest to `word` by edit distance, or empty when none is near enough to be meant
/// (more than a third of its letters differ, or it is the word itself).
std::string closest(std::string_view word, const std::vector<std::string>& names);

}  // namespace penstock::cli
