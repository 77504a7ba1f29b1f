#pragma once

#include <cstddef>
#include <string_view>

#include "base/result.h"
#include "text/gbnf_rules.h"

namespace penstock::text {

/// Bounds the ways in which one token can be read. While llama.cpp tries a token it follows each of
/// them by itself, and never merges those that come to the same place: ([ ]+)* has 2^n ways to read
/// n spaces. From each place where a rule is named, what tokens hold is read: each character over
/// and over (kRunCharactersMax), and those that most ways lead to (kWordCharactersMax); also from
/// out of 24 levels of each recursion, which may read alike what they still have to. Words that
/// lead to many ways only after fewer than others did are missed. Fails with kInvalidArgument;
/// `param` is the field to name. Requires that what each rule begins with is bounded (no left
/// recursion). Adds the steps of its search to `steps`. Any thread.
[[nodiscard]] Result<void> check_paths(const GbnfRules& grammar, std::string_view param,
                                       std::size_t& steps);

}  // namespace penstock::text
