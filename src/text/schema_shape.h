#pragma once

#include <string>
#include <string_view>

namespace penstock::text {

/// A schema whose root is a reference (`{"$ref": "#/$defs/Args", "$defs": {...}}`, as generators
/// write them), with what is referred to in its place; any other as it came. llama.cpp enforces
/// both alike, but what it derives from some templates reads a function's parameters off the root.
/// `schema` must have passed check_schema().
[[nodiscard]] std::string with_plain_root(std::string_view schema);

}  // namespace penstock::text
