#include "text/schema_shape.h"

#include <gtest/gtest.h>

#include "text/constraint_cache.h"

namespace penstock::text {
namespace {

TEST(SchemaShapeTest, EveryNodeNamesOneType) {
  struct Case {
    const char* given;
    const char* typed;
  };
  for (
      const Case& one : {
          Case{R"({"type":"object","properties":{"a":{"type":"string"}}})",
               R"({"type":"object","properties":{"a":{"type":"string"}}})"},
          Case{R"({"properties":{"a":{"anyOf":[{"type":"null"},{"type":"integer"}]}}})",
               R"({"properties":{"a":{"anyOf":[{"type":"null"},{"type":"integer"}],)"
               R"("type":"integer"}},"type":"object"})"},
          Case{
              R"({"type":"object","properties":{"a":{"description":"d","type":["null","array"]}}})",
              R"({"type":"object","properties":{"a":{"description":"d","type":"array",)"
              R"("anyOf":[{"description":"d","type":["null","array"]}],"items":)"
              R"({"type":"string","anyOf":[{}]}}}})"},
          Case{R"({"type":"object","properties":{"a":{}}})",
               R"({"type":"object","properties":{"a":{"type":"string","anyOf":[{}]}}})"},
          Case{R"({"type":"object","properties":{"a":{"enum":[1,2]},"b":{"const":true}}})",
               R"({"type":"object","properties":{"a":{"enum":[1,2],"type":"number"},)"
               R"("b":{"const":true,"type":"boolean"}}})"},
          Case{R"({"type":"object","properties":{"type":{"$ref":"#/$defs/T"}},)"
               R"("$defs":{"T":{"type":"integer"}}})",
               R"({"type":"object","properties":{"type":{"$ref":"#/$defs/T","type":"integer"}},)"
               R"("$defs":{"T":{"type":"integer"}}})"},
          Case{R"({"type":"array"})", R"({"type":"array","items":{"type":"string","anyOf":[{}]}})"},
          Case{"{}", "{}"},
          Case{"{", "{"},
      }) {
    EXPECT_EQ(with_plain_types(one.given), one.typed);
  }
}

TEST(SchemaShapeTest, WhatIsEnforcedStaysTheSame) {
  for (const char* schema :
       {R"({"properties":{"a":{"anyOf":[{"type":"null"},{"type":"integer"}]},"b":{"enum":["x",3]},
            "c":{"$ref":"#/$defs/T"}},"$defs":{"T":{"oneOf":[{"const":1},{"type":"string"}]}}})",
        R"({"$ref":"#/$defs/T","$defs":{"T":{"type":"object","properties":{
            "next":{"$ref":"#/$defs/T"}}}}})"}) {
    EXPECT_EQ(schema_to_gbnf(with_plain_types(schema)).value(), schema_to_gbnf(schema).value());
  }
}

}  // namespace
}  // namespace penstock::text
