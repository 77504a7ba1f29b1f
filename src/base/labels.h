#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace penstock {

/// What a worker is known by beside its model, in the order in which it was said: names and values,
/// as zone=eu.
using Labels = std::vector<std::pair<std::string, std::string>>;

/// "zone=eu,gpu=h100"; nothing for an empty text. Fails with kInvalidArgument and what is expected:
/// at most 16, each name once, names and values of 1 to 63 letters, digits and . _ - / (as
/// Kubernetes has them).
Result<Labels> parse_labels(std::string_view text);

/// Its value, in `labels`; null: there is none of that name.
[[nodiscard]] const std::string* find_label(const Labels& labels, std::string_view name);

/// As parse_labels() reads it.
[[nodiscard]] std::string format_labels(const Labels& labels);

}  // namespace penstock
