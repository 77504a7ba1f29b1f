#include "text/constraint_cache.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace penstock::text {
namespace {

TEST(ConstraintCacheTest, GivesTheGrammarAgainAndAgain) {
  ConstraintCache cache;
  const std::string schema = R"({"type":"object","properties":{"a":{"enum":["x","y"]}}})";
  for (int i = 0; i < 2; ++i) {
    const Result<std::string_view> made = cache.grammar_of(schema, "tools");
    ASSERT_TRUE(made.has_value()) << made.error().message;
    EXPECT_EQ(*made, schema_to_gbnf(schema).value());
  }
  EXPECT_EQ(cache.grammar_of("", "tools").value(), "");
}

TEST(ConstraintCacheTest, WhatIsRefusedIsRefusedAgainWithTheFieldOfItsTime) {
  ConstraintCache cache;
  for (const char* param : {"tools", "response_format"}) {
    for (const char* schema : {R"({"type":"nonsense"})", R"({"$ref":"#"})", "{"}) {
      const Result<std::string_view> made = cache.grammar_of(schema, param);
      ASSERT_FALSE(made.has_value()) << schema;
      EXPECT_EQ(made.error().param, param) << schema;
    }
  }
}

TEST(ConstraintCacheTest, ForgetsWhenItIsFull) {
  ConstraintCache cache;
  const auto schema = [](std::size_t i) {
    return fmt::format(R"({{"const":"{}{}"}})", i, std::string(60'000, 'x'));
  };
  for (std::size_t i = 0; i < 2 * ConstraintCache::kBytesMax / 120'000; ++i) {
    ASSERT_THAT(cache.grammar_of(schema(i), "x").value(),
                testing::HasSubstr(fmt::format("{}xxx", i)));
  }
}

}  // namespace
}  // namespace penstock::text
