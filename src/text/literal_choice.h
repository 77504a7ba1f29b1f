#pragma once

#include <string>
#include <string_view>

namespace penstock::text {

/// The same grammar with long choices between literals ("red" | "rose" | ...) written so that no
/// two alternatives begin with the same character: "r" ("ed" | "ose"). llama.cpp tries every token
/// of the vocabulary on every alternative that is open, so an enum of 500 values costs what its
/// different beginnings cost. Text that it does not understand stays as it is. Time:
/// n log n in the text. Any thread.
[[nodiscard]] std::string factor_choices(std::string_view gbnf);

}  // namespace penstock::text
