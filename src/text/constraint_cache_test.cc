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
    const Result<Constraint> made = cache.find(schema, "tools");
    ASSERT_TRUE(made.has_value()) << made.error().message;
    EXPECT_EQ(made->schema, schema);
    EXPECT_EQ(made->gbnf, schema_to_gbnf(schema).value());
  }
  EXPECT_EQ(cache.find("", "tools").value().gbnf, "");
}

TEST(ConstraintCacheTest, WhatIsRefusedIsRefusedAgainWithTheFieldOfItsTime) {
  ConstraintCache cache;
  for (const char* param : {"tools", "response_format"}) {
    for (const char* schema : {R"({"type":"nonsense"})", R"({"$ref":"#"})", "{"}) {
      const Result<Constraint> made = cache.find(schema, param);
      ASSERT_FALSE(made.has_value()) << schema;
      EXPECT_EQ(made.error().param, param) << schema;
    }
  }
}

TEST(ConstraintCacheTest, AReferenceAtTheRootGivesWayToWhatItNames) {
  ConstraintCache cache;
  const auto plain = [&](const std::string& schema) {
    for (int i = 0; i < 2; ++i) {
      const Result<Constraint> made = cache.find(schema, "tools");
      EXPECT_TRUE(made.has_value()) << made.error().message;
      if (i == 1) return std::string(made->schema);
    }
    return std::string();
  };
  const std::string object = R"({"type":"object","properties":{"a":{"type":"integer"}}})";
  EXPECT_EQ(
      plain(R"({"$ref":"#/$defs/A","$defs":{"A":)" + object + "}}"),
      R"({"type":"object","properties":{"a":{"type":"integer"}},"$defs":{"A":)" + object + "}}");
  // Over several, and with definitions that others refer to; what stands beside it is kept.
  EXPECT_EQ(plain(R"({"description":"d","$ref":"#/definitions/x/A","definitions":{"x":{"A":)"
                  R"({"$ref":"#/definitions/B"}},"B":{"type":"object","properties":{)"
                  R"("b":{"$ref":"#/definitions/B"}}}}})"),
            R"({"type":"object","properties":{"b":{"$ref":"#/definitions/B"}},"description":"d",)"
            R"("definitions":{"x":{"A":{"$ref":"#/definitions/B"}},"B":{"type":"object",)"
            R"("properties":{"b":{"$ref":"#/definitions/B"}}}}})");
  // A property may have that name.
  const std::string named = R"({"type":"object","properties":{"$ref":{"type":"string"}}})";
  EXPECT_EQ(plain(named), named);
  const Result<Constraint> lost = cache.find(R"({"$ref":"#/$defs/A"})", "tools");
  ASSERT_FALSE(lost.has_value());
  EXPECT_THAT(lost.error().message, testing::HasSubstr("#/$defs/A"));
}

TEST(ConstraintCacheTest, ForgetsWhenItIsFull) {
  ConstraintCache cache;
  const auto schema = [](std::size_t i) {
    return fmt::format(R"({{"const":"{}{}"}})", i, std::string(60'000, 'x'));
  };
  for (std::size_t i = 0; i < 2 * ConstraintCache::kBytesMax / 120'000; ++i) {
    ASSERT_THAT(cache.find(schema(i), "x").value().gbnf,
                testing::HasSubstr(fmt::format("{}xxx", i)));
  }
}

}  // namespace
}  // namespace penstock::text
