#include "text/schema_refs.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/constraint_cache.h"
#include "text/constraint_limits.h"
#include "text/gbnf_allows.h"

namespace penstock::text {
namespace {

std::string refusal_of(std::string_view schema) {
  const Result<void> checked = check_schema(schema, "x");
  return checked ? "" : checked.error().message;
}

TEST(SchemaRefsTest, ARecursiveSchemaIsEnforcedAtEachLevel) {
  // As OpenAI's guide to structured outputs has them.
  const std::string ui = gbnf_of(R"({"type":"object","properties":{
      "type":{"type":"string","enum":["div","button"]},"label":{"type":"string"},
      "children":{"type":"array","items":{"$ref":"#"}}},
      "required":["type","label","children"],"additionalProperties":false})");
  EXPECT_TRUE(gbnf_allows(ui, R"({"type":"div","label":"a","children":[{"type":"button",)"
                              R"("label":"b","children":[{"type":"div","label":"",)"
                              R"("children":[]}]},{"type":"div","label":"c","children":[]}]})"));
  EXPECT_FALSE(gbnf_allows(ui, R"({"type":"div","label":"a","children":[{"type":"div"}]})"));
  EXPECT_FALSE(gbnf_allows(ui, R"({"type":"div","label":"a","children":[{"type":"div",)"
                               R"("label":"b","children":[1]}]})"));

  const std::string list = gbnf_of(R"({"type":"object","properties":{"linked_list":
      {"$ref":"#/$defs/linked_list_node"}},"$defs":{"linked_list_node":{"type":"object",
      "properties":{"value":{"type":"number"},"next":{"anyOf":[
      {"$ref":"#/$defs/linked_list_node"},{"type":"null"}]}},"additionalProperties":false,
      "required":["next","value"]}},"additionalProperties":false,"required":["linked_list"]})");
  EXPECT_TRUE(gbnf_allows(list, R"({"linked_list":{"value":1,"next":{"value":2.5,"next":null}}})"));
  EXPECT_FALSE(gbnf_allows(list, R"({"linked_list":{"value":1,"next":{"value":2}}})"));

  const std::string either =
      gbnf_of(R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"$ref":"#"}}]})");
  EXPECT_TRUE(gbnf_allows(either, "[1,[2,[],[3]]]"));
  EXPECT_FALSE(gbnf_allows(either, R"([1,["2"]])"));
}

TEST(SchemaRefsTest, RecursiveSchemasOfTheWildPass) {
  for (const char* schema :
       {R"({"anyOf":[{"type":"string"},{"type":"number"},{"type":"boolean"},{"type":"null"},
            {"type":"array","items":{"$ref":"#"}},
            {"type":"object","additionalProperties":{"$ref":"#"}}]})",
        R"({"type":"object","properties":{"and":{"type":"array","items":{"$ref":"#"}},
            "or":{"type":"array","items":{"$ref":"#"}},"not":{"$ref":"#"},
            "field":{"type":"string"},"value":{"type":["string","number","null"]}}})",
        R"({"type":"object","properties":{"value":{"type":"integer"},
            "left":{"anyOf":[{"$ref":"#"},{"type":"null"}]},
            "right":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},
            "required":["value","left","right"],"additionalProperties":false})",
        R"({"$ref":"#/$defs/Person","$defs":{"Person":{"type":"object","properties":{
            "name":{"type":"string"},"spouse":{"anyOf":[{"$ref":"#/$defs/Person"},
            {"type":"null"}]},"home":{"$ref":"#/$defs/Home"}},"required":["name"]},
            "Home":{"type":"object","properties":{"owners":{"type":"array",
            "items":{"$ref":"#/$defs/Person"}}},"required":["owners"]}}})"}) {
    EXPECT_NE(gbnf_of(schema), "") << schema;
  }
  // Here what is read may be one of 2^n things, n levels deep.
  ConstraintCache cache;
  const Result<Constraint> doubling = cache.find(
      R"({"anyOf":[{"type":"array","prefixItems":[{"$ref":"#"},{"const":1}]},
          {"type":"array","prefixItems":[{"$ref":"#"},{"const":2}]},{"type":"null"}]})",
      "x");
  ASSERT_FALSE(doubling.has_value());
  EXPECT_THAT(doubling.error().message, testing::HasSubstr("ways to read"));
}

TEST(SchemaRefsTest, TheRootIsNamedBesideWhatTheClientNames) {
  EXPECT_EQ(with_named_root(R"({"items":{"$ref":"#"},"$defs":{"root":{"type":"null"}}})"),
            R"({"items":{"$ref":"#/$defs/rootx"},"$defs":{"root":{"type":"null"},)"
            R"("rootx":{"items":{"$ref":"#/$defs/rootx"}}}})");
  // What only looks like a reference stays: values, and a property of that name.
  for (const char* schema : {R"({"const":{"$ref":"#"}})", R"({"enum":[{"$ref":"#"}]})",
                             R"({"properties":{"$ref":{"const":"#"}}})",
                             R"({"properties":{"a":{"$ref":"#/$defs/A"}}})"}) {
    EXPECT_EQ(with_named_root(schema), schema);
  }
  EXPECT_NE(with_named_root(R"({"properties":{"const":{"$ref":"#"}}})").find("$defs"),
            std::string::npos);
}

TEST(SchemaRefsTest, DefinitionsWithSimilarNamesAreNotMistaken) {
  // llama.cpp would take the rule of one for that of the other.
  const std::string alike = gbnf_of(R"({"type":"object","properties":{"a":{"$ref":"#/$defs/x_y"},
      "b":{"$ref":"#/$defs/x.y"}},"required":["a","b"],
      "$defs":{"x_y":{"const":1},"x.y":{"const":2}}})");
  EXPECT_TRUE(gbnf_allows(alike, R"({"a":1,"b":2})"));
  EXPECT_FALSE(gbnf_allows(alike, R"({"a":1,"b":1})"));
  const std::string within = gbnf_of(R"({"type":"object","properties":{"a":{"$ref":"#/$defs/User"},
      "b":{"$ref":"#/$defs/User_name"}},"required":["a","b"],"$defs":{"User":{"type":"object",
      "properties":{"name":{"const":1}},"required":["name"]},"User_name":{"const":2}}})");
  EXPECT_TRUE(gbnf_allows(within, R"({"a":{"name":1},"b":2})"));
  EXPECT_FALSE(gbnf_allows(within, R"({"a":{"name":1},"b":1})"));
}

TEST(SchemaRefsTest, DistinctNamesMeanTheSame) {
  EXPECT_EQ(
      with_distinct_refs(
          R"({"properties":{"a":{"$ref":"#/$defs/A"},"b":{"$ref":"#/definitions/A/items"},)"
          R"("c":{"$ref":"#/properties/a"},"d":{"$ref":"http://x/y"}},)"
          R"("$defs":{"A":{"type":"null"}},"definitions":{"A":{"items":{}}}})",
          "T7V"),
      R"({"properties":{"a":{"$ref":"#/$defs/AT7V0"},"b":{"$ref":"#/$defs/itemsT7V1"},)"
      R"("c":{"$ref":"#/$defs/aT7V2"},"d":{"$ref":"http://x/y"}},)"
      R"("$defs":{"AT7V0":{"type":"null"},"itemsT7V1":{},"aT7V2":{"$ref":"#/$defs/AT7V0"}}})");
}

TEST(SchemaRefsTest, NewNamesAreNotMistakenEither) {
  // "A-0" and "A_0-1" would be: A's second alternative is of that name as well.
  const std::string gbnf = gbnf_of(R"({"type":"object","properties":{"a":{"$ref":"#/$defs/A"},
      "b":{"$ref":"#/$defs/A_0"}},"required":["a","b"],
      "$defs":{"A":{"anyOf":[{"const":1},{"const":2}]},"A_0":{"const":3}}})");
  EXPECT_TRUE(gbnf_allows(gbnf, R"({"a":1,"b":3})"));
  EXPECT_FALSE(gbnf_allows(gbnf, R"({"a":1,"b":2})"));
  const std::string within = gbnf_of(R"({"properties":{"a":{"$ref":"#/$defs/A"},
      "b":{"$ref":"#/$defs/A/properties/b"},"c":{"$ref":"#/$defs/L/0"}},"required":["a","b","c"],
      "$defs":{"A":{"properties":{"b":{"const":1}},"required":["b"]},"L":[{"const":2}]}})");
  EXPECT_TRUE(gbnf_allows(within, R"({"a":{"b":1},"b":1,"c":2})"));
}

TEST(SchemaRefsTest, RulesThatOverlapAreNotAdded) {
  RefRules rules;
  const auto of = [](std::string_view name, std::string_view content) {
    return RefRules::of(fmt::format(R"({{"items":{{"$ref":"#/$defs/{0}"}},"$defs":{{"{0}":{1}}}}})",
                                    name, content));
  };
  EXPECT_TRUE(rules.add(of("User", "{}")));
  EXPECT_TRUE(rules.add(of("User", "{}")));
  EXPECT_TRUE(rules.add(of("UserName", "{}")));
  EXPECT_TRUE(rules.add(of("Place_of_work", "{}")));
  EXPECT_FALSE(rules.add(of("User", R"({"type":"null"})")));
  EXPECT_FALSE(rules.add(of("User_name", "{}")));
  EXPECT_FALSE(rules.add(of("Place", "{}")));
  EXPECT_TRUE(rules.add(of("Places", "{}")));
  EXPECT_TRUE(rules.add(of("a-_b", "{}")));
  EXPECT_FALSE(rules.add(of("a--b", R"({"type":"null"})")));
  EXPECT_TRUE(rules.add(of("c--b", "{}")));
  EXPECT_TRUE(rules.add(of("c-b", R"({"type":"null"})")));
}

TEST(SchemaRefsTest, BesideAReferenceStandsNothingThatIsNotEnforced) {
  const auto beside = [](std::string_view more, std::string_view target, std::string_view draft) {
    return refusal_of(
        fmt::format(R"({{"properties":{{"a":{{"$ref":"#/$defs/A",{}}}}},"$defs":{{"A":{}}}{}}})",
                    more, target, draft));
  };
  const std::string_view object = R"({"type":"object","properties":{"x":{}},"required":["x"]})";
  for (const char* more :
       {R"("title":"t","description":"d","default":null,"deprecated":true,"nullable":true)",
        R"("type":"object")", R"("required":[],"properties":{})", R"("additionalProperties":true)",
        R"("additionalProperties":false)"}) {
    EXPECT_EQ(beside(more, object, ""), "") << more;
  }
  EXPECT_EQ(beside(R"("type":"string")", R"({"enum":["a"]})", ""), "");
  EXPECT_EQ(beside(R"("type":"object")", R"({"properties":{}})", ""), "");
  for (const char* more : {R"("type":"string")", R"("type":["object"])", R"("required":["y"])",
                           R"("properties":{"y":{}})", R"("minLength":3)", R"("anyOf":[{}])",
                           R"("enum":[1])", R"("additionalProperties":{"type":"null"})"}) {
    EXPECT_THAT(beside(more, object, ""), testing::HasSubstr("beside the $ref #/$defs/A")) << more;
    // There, what stands beside a reference has no meaning.
    EXPECT_EQ(beside(more, object, R"(,"$schema":"http://json-schema.org/draft-07/schema#")"), "");
  }
  EXPECT_NE(beside(R"("type":"string")", R"({"anyOf":[{"type":"string"},{"type":"null"}]})", ""),
            "");
  EXPECT_NE(beside(R"("additionalProperties":false)",
                   R"({"properties":{},"additionalProperties":{"type":"null"}})", ""),
            "");
}

TEST(SchemaRefsTest, ARootGivesWayToWhatItNamesAlone) {
  EXPECT_EQ(with_plain_root(R"({"$schema":"http://json-schema.org/draft-07/schema#","title":"T",)"
                            R"("$ref":"#/definitions/A","required":["b"],"definitions":{"A":)"
                            R"({"type":"object","properties":{"a":{}}}}})"),
            R"({"type":"object","properties":{"a":{}},)"
            R"("$schema":"http://json-schema.org/draft-07/schema#","title":"T",)"
            R"("definitions":{"A":{"type":"object","properties":{"a":{}}}}})");
}

}  // namespace
}  // namespace penstock::text
