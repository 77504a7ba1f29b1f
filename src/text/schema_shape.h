#pragma once

#include <string>
#include <string_view>

namespace penstock::text {

/// The schema with a type, and one alone, named in each of its nodes, as templates expect
/// that list a function's parameters for the model: some fail where a generator left it out or
/// allowed several. What is enforced stays the same: llama.cpp passes over a type beside $ref,
/// anyOf, oneOf, enum and const, and other nodes become the one alternative of an anyOf.
/// `schema` must have passed check_schema().
[[nodiscard]] std::string with_plain_types(std::string_view schema);

}  // namespace penstock::text
