#pragma once

#include <string_view>

#include "base/result.h"

/// llama.cpp takes any grammar or schema it is given: it recurses as deep as they nest, copies what
/// they repeat, follows leftmost rules once a path (2^n paths for n rules), and turns optional
/// properties into rules in cubic time. What clients send is checked here first, so that none of
/// that can hold a thread or the process. Costs time linear in the text. Any thread.
namespace penstock::text {

inline constexpr std::size_t kConstraintBytesMax = 128 << 10;
inline constexpr std::size_t kConstraintDepthMax = 64;        // of groups, of JSON, of patterns
inline constexpr std::size_t kRepeatedElementsMax = 200'000;  // characters times their repetitions
inline constexpr std::size_t kRulesMax = 6000;
inline constexpr std::size_t kLeftmostPathsMax = 50'000;    // about a millisecond to follow
inline constexpr std::size_t kOptionalPropertiesMax = 100;  // of one object

/// Fails with kInvalidArgument, naming the limit. What is no GBNF at all may pass: llama.cpp says
/// so.
[[nodiscard]] Result<void> check_gbnf(std::string_view gbnf);

/// The same of a JSON schema. `param`: the field to name.
[[nodiscard]] Result<void> check_schema(std::string_view schema, std::string_view param);

}  // namespace penstock::text
