#include "text/schema_all_of.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/constraint_cache.h"
#include "text/gbnf_allows.h"

namespace penstock::text {
namespace {

using testing::HasSubstr;

std::string merged(std::string_view schema) {
  const Result<std::string> made = with_merged_all_of(schema, "x");
  return made ? *made : made.error().message;
}

/// Why it cannot be enforced, on the way that requests take.
std::string refusal_to_enforce(std::string_view schema) {
  ConstraintCache cache;
  const Result<Constraint> made = cache.find(schema, "x");
  return made ? "" : made.error().message;
}

TEST(SchemaAllOfTest, APartThatIsLeftAloneTakesThePlace) {
  // As generators describe a reference: what tells and what says nothing does not narrow.
  EXPECT_EQ(merged(R"({"properties":{"a":{"default":"x","allOf":[{"$ref":"#/$defs/A"}]}},)"
                   R"("$defs":{"A":{"enum":["x","y"]}}})"),
            R"({"properties":{"a":{"default":"x","$ref":"#/$defs/A"}},)"
            R"("$defs":{"A":{"enum":["x","y"]}}})");
  EXPECT_EQ(merged(R"({"allOf":[{"$ref":"#/$defs/A"},{"description":"d"},{},true],)"
                   R"("$defs":{"A":{"const":1}}})"),
            R"({"description":"d","$defs":{"A":{"const":1}},"$ref":"#/$defs/A"})");
  const std::string gbnf = gbnf_of(R"({"type":"object","properties":{"c":{"allOf":[
      {"$ref":"#/$defs/Color"},{"description":"d"}]}},"required":["c"],
      "$defs":{"Color":{"type":"string","enum":["red","blue"]}}})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"c":"red"})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"c":{}})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"c":"green"})"));
}

TEST(SchemaAllOfTest, ATypeThatIsImpliedGoes) {
  for (const char* type : {R"("object")", R"(["object","null"])"}) {
    EXPECT_EQ(merged(fmt::format(
                  R"({{"type":{},"allOf":[{{"$ref":"#/$defs/A"}}],"$defs":{{"A":{{"anyOf":[)"
                  R"({{"$ref":"#/$defs/B"}},{{"type":"object"}}]}},"B":{{"properties":{{}}}}}}}})",
                  type)),
              R"({"$defs":{"A":{"anyOf":[{"$ref":"#/$defs/B"},{"type":"object"}]},)"
              R"("B":{"properties":{}}},"$ref":"#/$defs/A"})");
  }
  EXPECT_EQ(merged(R"({"type":"string","allOf":[{"$ref":"#/$defs/A"}],)"
                   R"("$defs":{"A":{"anyOf":[{"type":"string"},{"type":"null"}]}}})"),
            R"({"$defs":{"A":{"anyOf":[{"type":"string"},{"type":"null"}]}},)"
            R"("anyOf":[{"type":"string"}]})");
  EXPECT_EQ(merged(R"({"type":"integer","allOf":[{"enum":[1,"a",2]},{"enum":["a",2,3,1]}]})"),
            R"({"enum":[1,2],"type":"integer"})");
}

TEST(SchemaAllOfTest, PropertiesAreUnited) {
  const std::string derived = gbnf_of(R"({"type":"object","allOf":[{"$ref":"#/$defs/Base"}],
      "properties":{"b":{"const":2},"c":{"const":3}},"required":["b"],
      "$defs":{"Base":{"type":"object",
      "properties":{"a":{"const":1}},"required":["a"]}}})");
  EXPECT_TRUE(gbnf_allows(derived, R"({"a":1,"b":2})"));
  EXPECT_TRUE(gbnf_allows(derived, R"({"a":1,"b":2,"c":3})"));
  EXPECT_FALSE(gbnf_allows(derived, R"({"b":2})"));
  EXPECT_FALSE(gbnf_allows(derived, R"({"a":1,"b":2,"d":3})"));
  const std::string_view two = R"({{"allOf":[{{"properties":{{"a":{{"const":1}}}}}},
      {{"properties":{{"b":{{"const":2}}}},"additionalProperties":{}}}],"required":["a"]{}}})";
  const std::string open = gbnf_of(fmt::format(fmt::runtime(two), "true", ""));
  EXPECT_TRUE(gbnf_allows(open, R"({"a":1,"c":3})"));
  const std::string closed =
      gbnf_of(fmt::format(fmt::runtime(two), "true", R"(,"additionalProperties":false)"));
  EXPECT_TRUE(gbnf_allows(closed, R"({"a":1,"b":2})"));
  EXPECT_FALSE(gbnf_allows(closed, R"({"b":2})"));
  EXPECT_FALSE(gbnf_allows(closed, R"({"a":1,"c":3})"));
}

TEST(SchemaAllOfTest, AlternativesTakeWhatStandsBesideThem) {
  const std::string gbnf = gbnf_of(R"({"allOf":[
      {"properties":{"a":{"const":1}},"required":["a"]},
      {"oneOf":[{"properties":{"b":{"const":2}},"required":["b"]},{"$ref":"#/$defs/C"}]}],
      "$defs":{"C":{"properties":{"c":{"const":3}},"required":["c"]}}})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"a":1,"b":2})"));
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"a":1,"c":3})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"a":1})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"b":2})"));
  EXPECT_EQ(merged(R"({"anyOf":[{"const":1},{"const":"a"}],"allOf":[{"type":"integer"}],)"
                   R"("oneOf":[{"enum":[1,2]},{"type":"null"}]})"),
            R"({"anyOf":[{"anyOf":[{"type":"integer","const":1}]}]})");
}

TEST(SchemaAllOfTest, InheritanceGoesOverSeveralLevels) {
  const std::string_view schema = R"({"type":"object","properties":{"pet":{"$ref":"#/$defs/Puppy"}},
      "required":["pet"],"$defs":{
      "Pet":{"type":"object","properties":{"kind":{"type":"string"},"name":{"type":"string"}},
             "required":["kind"]},
      "Dog":{"allOf":[{"$ref":"#/$defs/Pet"},{"properties":{"kind":{"enum":["dog","puppy"]},
             "friend":{"$ref":"#/$defs/Dog"}}}]},
      "Puppy":{"allOf":[{"$ref":"#/$defs/Dog"},{"description":"d"},{"properties":{
             "kind":{"const":"puppy"},"age":{"type":"integer"}},"required":["age"]}]}}})";
  const std::string gbnf = gbnf_of(schema);
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"pet":{"kind":"puppy","age":1}})"));
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"pet":{"kind":"puppy","age":1,"friend":{"kind":"dog"}}})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"pet":{"kind":"dog","age":1}})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"pet":{"kind":"puppy"}})"));
}

TEST(SchemaAllOfTest, ConditionsOfOneNodeAreEnforced) {
  const std::string gbnf = gbnf_of(R"({"properties":{"a":{"const":1},"b":{"const":2}},
      "allOf":[{"required":["a"]},{"if":{},"then":{}},{"not":{}}]})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"a":1})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"b":2})"));
  EXPECT_EQ(merged(R"({"allOf":[{"type":["integer","string"]},{"type":"number"},{"minimum":2}]})"),
            R"({"type":"integer","minimum":2})");
  EXPECT_EQ(merged(R"({"\u0061llOf":[{"type":"string"},{"minLength":2}],"maxLength":3})"),
            R"({"type":"string","minLength":2,"maxLength":3})");
  EXPECT_EQ(merged(R"({ "const": "\u0061llOf" })"), R"({ "const": "\u0061llOf" })");
}

TEST(SchemaAllOfTest, WhatIsRecursiveBehindAReferenceStaysSo) {
  const std::string gbnf = gbnf_of(R"({"$ref":"#/$defs/Node","$defs":{"Node":{"allOf":[
      {"$ref":"#/$defs/Base"},{"properties":{"next":{"$ref":"#/$defs/Node"}}}]},
      "Base":{"properties":{"id":{"const":1}},"required":["id"]}}})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"id":1,"next":{"id":1,"next":{"id":1}}})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"id":1,"next":{}})"));
  // These would have no end.
  EXPECT_THAT(merged(R"({"$ref":"#/$defs/A","$defs":{"A":{"properties":{"a":{"allOf":[
      {"$ref":"#/$defs/A"},{"properties":{"b":{}}}]}}}}})"),
              HasSubstr("it is part of what its $ref #/$defs/A names"));
  EXPECT_THAT(merged(R"({"allOf":[{"$ref":"#/$defs/A"},{"$ref":"#/$defs/B"}],"$defs":{
      "A":{"properties":{"x":{"$ref":"#/$defs/A"},"a":{}}},
      "B":{"properties":{"x":{"$ref":"#/$defs/B"},"b":{}}}}})"),
              HasSubstr("too deep"));
}

TEST(SchemaAllOfTest, AReferenceIntoAnAllOfIsFollowed) {
  const std::string gbnf = gbnf_of(R"({"allOf":[{"properties":{"a":{"const":1}}},
      {"properties":{"b":{"$ref":"#/allOf/0/properties/a"},"c":{"$ref":"#/properties/d"}}}],
      "properties":{"d":{"const":4}},"required":["a","b","c","d"]})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"a":1,"b":1,"c":4,"d":4})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"a":1,"b":2,"c":4,"d":4})"));
}

TEST(SchemaAllOfTest, WhatCannotBeSaidInOneNodeIsRefused) {
  for (const auto& [schema, why] :
       {std::pair{R"({"allOf":[{"type":"string"},{"type":"null"}]})", "no type in common"},
        {R"({"allOf":[{"enum":[1]},{"enum":[2]}]})", "no value in common"},
        {R"({"allOf":[{"const":1},{"const":2}]})", "no value in common"},
        {R"({"allOf":[{"pattern":"^a$"},{"pattern":"^b$"}]})", R"(about "pattern")"},
        {R"({"allOf":[{"enum":["a"]},{"minLength":2}]})", "beside an enum"},
        {R"({"allOf":[{"anyOf":[{"const":1}]},{"anyOf":[{"const":2}]}]})", R"(about "anyOf")"},
        {R"({"allOf":[{"anyOf":[{"const":1}]},{"type":"null"}]})", "none of its alternatives"},
        {R"({"allOf":[{"properties":{"a":{}}},{"additionalProperties":{"const":1}}]})",
         "other properties"},
        {R"({"allOf":[{"items":{}},{"prefixItems":[{}]}]})", "prefixItems"},
        {R"({"allOf":[{"type":"null"},false]})", "not an object"},
        {R"({"allOf":[{"$ref":"#/$defs/A"},{"type":"null"}]})", "names nothing"},
        {R"({"allOf":[{"properties":{"a":{"const":1}}},{"properties":{"a":{"const":2}}}]})",
         "no value in common"}}) {
    EXPECT_THAT(refusal_to_enforce(schema), HasSubstr("x: an allOf cannot be enforced: "))
        << schema;
    EXPECT_THAT(refusal_to_enforce(schema), HasSubstr(why)) << schema;
  }
}

TEST(SchemaAllOfTest, WhatIsMergedIsBounded) {
  // A hundred parts each of 44 nodes lead to the end of one long chain, which is copied each time.
  std::string chain;
  for (int i = 0; i < 99; ++i) chain += fmt::format(R"("z{}":{{"$ref":"#/$defs/z{}"}},)", i, i + 1);
  std::string properties;
  for (int i = 0; i < 50; ++i) properties += fmt::format(R"({}"p{}":{{}})", i == 0 ? "" : ",", i);
  const auto schema = [&](int nodes, int parts) {
    std::string all;
    for (int i = 0; i < nodes; ++i) {
      std::string refs;
      for (int j = 0; j < parts; ++j) refs += R"(,{"$ref":"#/$defs/z0"})";
      all += fmt::format(R"(,"n{}":{{"properties":{{}},"allOf":[{}]}})", i, refs.substr(1));
    }
    return fmt::format(R"({{"properties":{{{}}},"$defs":{{{}"z99":{{"properties":{{{}}}}}}}}})",
                       all.substr(1), chain, properties);
  };
  EXPECT_EQ(refusal_to_enforce(schema(2, 2)), "");
  EXPECT_THAT(refusal_to_enforce(schema(44, 100)), HasSubstr("steps"));
  // Each alternative takes a long text with it.
  std::string alternatives = "{}";
  for (int i = 0; i < 1000; ++i) alternatives += ",{}";
  EXPECT_THAT(refusal_to_enforce(fmt::format(
                  R"({{"allOf":[{{"type":"object","properties":{{"p":{{"description":"{}"}}}}}},)"
                  R"({{"anyOf":[{}]}}]}})",
                  std::string(60'000, 'x'), alternatives)),
              HasSubstr("steps"));
  // What is merged is checked as if it had come so.
  std::string parts;
  for (int i = 0; i < 3; ++i) {
    std::string names;
    for (int j = 0; j < 40; ++j) names += fmt::format(R"({}"p{}_{}":{{}})", j ? "," : "", i, j);
    parts += fmt::format(R"({}{{"properties":{{{}}}}})", i ? "," : "", names);
  }
  EXPECT_THAT(refusal_to_enforce(fmt::format(R"({{"allOf":[{}]}})", parts)),
              HasSubstr("optional properties in one object"));
}

}  // namespace
}  // namespace penstock::text
