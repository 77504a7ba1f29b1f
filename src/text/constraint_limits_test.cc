#include "text/constraint_limits.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "text/chat_template.h"

namespace penstock::text {
namespace {

using testing::HasSubstr;

std::string says(const Result<void>& result) { return result ? "" : result.error().message; }

/// Each rule begins with the next one in two ways: 2^n paths.
std::string doubling(int rules) {
  std::string gbnf = "root ::= r0\n";
  for (int i = 0; i < rules; ++i) gbnf += fmt::format("r{} ::= r{} | r{}\n", i, i + 1, i + 1);
  return gbnf + fmt::format("r{} ::= \"a\"\n", rules);
}

TEST(GbnfLimitsTest, LeftmostPathsAreBounded) {
  EXPECT_EQ(says(check_gbnf(doubling(10))), "");
  EXPECT_THAT(says(check_gbnf(doubling(40))), HasSubstr("ways through"));
  std::string through_groups = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    through_groups += fmt::format("r{} ::= (r{} | \"x\"? r{}) \"b\"\n", i, i + 1, i + 1);
  }
  EXPECT_THAT(says(check_gbnf(through_groups + "r40 ::= \"a\"\n")), HasSubstr("ways through"));
}

TEST(GbnfLimitsTest, WhatStandsBehindTextIsNotLeftmost) {
  std::string gbnf = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) gbnf += fmt::format("r{} ::= \"a\" (r{} | r{})\n", i, i + 1, i + 1);
  EXPECT_EQ(says(check_gbnf(gbnf + "r40 ::= [a-z]+\n")), "");
}

TEST(GbnfLimitsTest, RecursionIsLeftToLlama) {
  EXPECT_EQ(says(check_gbnf("root ::= item root | \"\"\nitem ::= \"a\"\n")), "");
  EXPECT_EQ(says(check_gbnf("root ::= root \"a\"\n")), "");
}

TEST(GbnfLimitsTest, NestingAndRepetitionAreBounded) {
  EXPECT_EQ(says(check_gbnf("root ::= ((((\"a\"))))")), "");
  EXPECT_THAT(says(check_gbnf("root ::= " + std::string(20000, '(') + "\"a\"")),
              HasSubstr("groups within each other"));
  EXPECT_THAT(says(check_gbnf("root ::= \"" + std::string(50'000, 'a') + "\"{2000}")),
              HasSubstr("repeated"));
  EXPECT_EQ(says(check_gbnf("root ::= \"abc\"{2,30} # {9999}\n")), "");
  EXPECT_THAT(says(check_gbnf(std::string(2 << 20, ' '))), HasSubstr("bytes"));
}

TEST(GbnfLimitsTest, AnythingElseEnds) {
  for (const char* text : {"", "root", "root ::=", "root ::= \"", "root ::= [", "root ::= (",
                           "root ::= a{", "root ::= a{2,", "root ::= \"\\", ")", "::= a", "|"}) {
    EXPECT_EQ(says(check_gbnf(text)), "") << text;
  }
}

TEST(SchemaLimitsTest, BoundsWhatCostsMost) {
  const auto with_properties = [](int count, bool required) {
    std::string properties, names;
    for (int i = 0; i < count; ++i) {
      properties += fmt::format(R"({}"p{}":{{"type":"string"}})", i == 0 ? "" : ",", i);
      names += fmt::format(R"({}"p{}")", i == 0 ? "" : ",", i);
    }
    return fmt::format(R"({{"type":"object","properties":{{{}}}{}}})", properties,
                       required ? fmt::format(R"(,"required":[{}])", names) : "");
  };
  EXPECT_EQ(says(check_schema(with_properties(100, false), "x")), "");
  EXPECT_THAT(says(check_schema(with_properties(101, false), "x")),
              HasSubstr("x: more than 100 optional properties"));
  EXPECT_EQ(says(check_schema(with_properties(1000, true), "x")), "");
  EXPECT_THAT(says(check_schema(
                  fmt::format(R"({{"items":[{{"pattern":"{}a"}}]}})", std::string(100, '(')), "x")),
              HasSubstr("pattern"));
  EXPECT_THAT(says(check_schema(std::string(65, '[') + std::string(65, ']'), "x")),
              HasSubstr("levels"));
  EXPECT_THAT(says(check_schema(std::string(200'000, ' '), "x")), HasSubstr("bytes"));
  EXPECT_EQ(says(check_schema("{", "x")), "");
}

TEST(SchemaLimitsTest, ASchemaThatDoublesIsStoppedAsAGrammar) {
  std::string defs;
  for (int i = 0; i < 40; ++i) {
    defs += fmt::format(R"("d{}":{{"anyOf":[{{"$ref":"#/$defs/d{}"}},{{"$ref":"#/$defs/d{}"}}]}},)",
                        i, i + 1, i + 1);
  }
  const Result<std::string> gbnf = schema_to_gbnf(
      fmt::format(R"({{"$ref":"#/$defs/d0","$defs":{{{}"d40":{{"type":"integer"}}}}}})", defs));
  ASSERT_TRUE(gbnf.has_value()) << gbnf.error().message;
  EXPECT_THAT(says(check_gbnf(*gbnf)), HasSubstr("ways through"));
}

}  // namespace
}  // namespace penstock::text
