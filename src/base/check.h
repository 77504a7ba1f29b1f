#pragma once

#include <fmt/format.h>

#include <source_location>
#include <string>

namespace penstock {

/// Prints what failed, where and with which operands, then aborts. Stays on in release: a broken
/// invariant must not serve one more token.
[[noreturn]] void check_failed(const char* expression, const std::string& detail,
                               std::source_location where = std::source_location::current());

}  // namespace penstock

/// For what only a bug can break; bad input gets an Error instead.
#define CHECK(condition)                        \
  do {                                          \
    if (!(condition)) [[unlikely]]              \
      ::penstock::check_failed(#condition, {}); \
  } while (false)

#define PENSTOCK_CHECK_OP(a, op, b)                                               \
  do {                                                                            \
    const auto& check_left = (a);                                                 \
    const auto& check_right = (b);                                                \
    if (!(check_left op check_right)) [[unlikely]]                                \
      ::penstock::check_failed(#a " " #op " " #b,                                 \
                               fmt::format("{} vs {}", check_left, check_right)); \
  } while (false)

#define CHECK_EQ(a, b) PENSTOCK_CHECK_OP(a, ==, b)
#define CHECK_LE(a, b) PENSTOCK_CHECK_OP(a, <=, b)
#define CHECK_LT(a, b) PENSTOCK_CHECK_OP(a, <, b)
#define CHECK_GE(a, b) PENSTOCK_CHECK_OP(a, >=, b)
