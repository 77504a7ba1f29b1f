#include "text/internal/template_inputs.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "text/constraint_limits.h"

namespace penstock::text {
namespace {

using testing::HasSubstr;

/// What is wrong with `count` tools whose parameters are `schema_of(i)`, or nothing.
std::string refusal(std::size_t count, const std::function<std::string(std::size_t)>& schema_of,
                    ConstraintCache& cache) {
  std::vector<std::string> names;
  std::vector<std::string> schemas;
  for (std::size_t i = 0; i < count; ++i) {
    names.push_back(fmt::format("f{}", i));
    schemas.push_back(schema_of(i));
  }
  Conversation c;
  for (std::size_t i = 0; i < count; ++i) c.tools.push_back({names[i], "", schemas[i]});
  const Result<Constraints> checked = check_constraints(c, cache);
  if (checked) return "";
  EXPECT_EQ(checked.error().param, "tools");
  return checked.error().message;
}

std::string optional_properties(std::size_t tool, std::size_t count) {
  std::string properties;
  for (std::size_t p = 0; p < count; ++p) {
    properties += fmt::format(R"({}"p{}_{}":{{"type":"string"}})", p == 0 ? "" : ",", tool, p);
  }
  return fmt::format(R"({{"type":"object","properties":{{{}}}}})", properties);
}

TEST(ToolLimitsTest, SchemasAreCountedTogether) {
  ConstraintCache cache;
  const auto described = [](std::size_t bytes) {
    return [bytes](std::size_t i) {
      return fmt::format(R"({{"type":"object","description":"{}{}"}})", std::string(bytes, 'x'), i);
    };
  };
  EXPECT_EQ(refusal(5, described(100 << 10), cache), "");
  EXPECT_THAT(refusal(6, described(100 << 10), cache), HasSubstr("parameters together"));
}

TEST(ToolLimitsTest, WhatTheyTakeIsCountedTogetherAlsoOfThoseKnown) {
  ConstraintCache cache;
  const auto wide = [](std::size_t i) { return optional_properties(i, 100); };
  std::size_t fit = 0;
  while (refusal(fit + 1, wide, cache).empty()) ++fit;
  EXPECT_GE(fit, 2U);
  EXPECT_LT(fit, 10U);
  for (int again = 0; again < 2; ++again) {
    EXPECT_THAT(refusal(fit + 1, wide, cache), HasSubstr("together"));
    EXPECT_EQ(refusal(fit, wide, cache), "");
  }
}

TEST(ToolLimitsTest, LongGrammarsAreCountedTogether) {
  ConstraintCache cache;
  // A range of numbers is ten times as long as a grammar.
  const auto ranges = [](std::size_t tool) {
    std::string properties;
    std::string required;
    for (std::size_t p = 0; p < 200; ++p) {
      const char* comma = p == 0 ? "" : ",";
      properties += fmt::format(R"({}"p{}":{{"type":"integer","minimum":-{},"maximum":7654321}})",
                                comma, p, 123'456 + tool);
      required += fmt::format(R"({}"p{}")", comma, p);
    }
    return fmt::format(R"({{"type":"object","properties":{{{}}},"required":[{}]}})", properties,
                       required);
  };
  EXPECT_EQ(refusal(3, ranges, cache), "");
  EXPECT_THAT(refusal(35, ranges, cache), HasSubstr("together"));
}

TEST(ToolLimitsTest, ManyToolsOfTheWildPass) {
  ConstraintCache cache;
  EXPECT_EQ(refusal(300, [](std::size_t i) { return optional_properties(i, 5); }, cache), "");
}

}  // namespace
}  // namespace penstock::text
