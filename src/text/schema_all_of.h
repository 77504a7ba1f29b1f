#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace penstock::text {

/// Values of JSON that are copied or compared to merge what the allOfs of one schema say.
inline constexpr std::size_t kAllOfStepsMax = 50'000;

/// The same schema without allOf: what its parts say stands in the node that has it, since
/// llama.cpp takes of several parts the properties or the enums and passes over the rest. Parts
/// that say nothing go, one that is left alone (as a reference is, with a description) takes the
/// place; of several, properties and required names are united and what both say is narrowed.
/// "additionalProperties": false allows what the parts name together, as is meant, if not said.
///
/// Alternatives take what stands beside all of them.
///
/// Fails with kInvalidArgument where that cannot be said in one node: two different patterns, types
/// that exclude each other, a length beside an enum. `schema` must have passed
/// check_schema(); the result may be longer, and must pass again. `param`: the field to name.
/// Any thread.
[[nodiscard]] Result<std::string> with_merged_all_of(std::string_view schema,
                                                     std::string_view param);

}  // namespace penstock::text
