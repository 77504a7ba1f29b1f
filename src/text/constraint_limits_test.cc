#include "text/constraint_limits.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "text/constraint_cache.h"

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
  EXPECT_EQ(says(check_gbnf(doubling(8))), "");
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

TEST(GbnfLimitsTest, LeftRecursionIsRefused) {
  EXPECT_EQ(says(check_gbnf("root ::= item root | \"\"\nitem ::= \"a\"\n")), "");
  EXPECT_EQ(says(check_gbnf("root ::= (\"a\"* \"b\"?)* \"c\"\n")), "");
  EXPECT_THAT(says(check_gbnf("root ::= root \"a\"\n")), HasSubstr("begins with itself"));
  // llama.cpp does not see this one.
  EXPECT_THAT(says(check_gbnf("root ::= e root \"a\" | \"b\"\ne ::= f\nf ::= \"\"\n")),
              HasSubstr("begins with itself"));
}

TEST(GbnfLimitsTest, AnEmptyLiteralReadsNothing) {
  std::string gbnf = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    gbnf += fmt::format("r{} ::= \"\" r{} | \"\" r{}\n", i, i + 1, i + 1);
  }
  EXPECT_THAT(says(check_gbnf(gbnf + "r40 ::= \"a\"\n")), HasSubstr("ways through"));
}

TEST(GbnfLimitsTest, OpenAlternativesAreBounded) {
  const auto chain = [](int rules) {
    std::string gbnf = "root ::= r0\n";
    for (int i = 0; i < rules; ++i) {
      gbnf += fmt::format("r{} ::= r{}", i, i + 1);
      for (char c = 'a'; c < 'y'; ++c) gbnf += fmt::format(" | \"{}\"", c);
      gbnf += '\n';
    }
    return gbnf + fmt::format("r{} ::= \"z\"\n", rules);
  };
  EXPECT_EQ(says(check_gbnf(chain(20))), "");
  EXPECT_THAT(says(check_gbnf(chain(300))), HasSubstr("alternatives open"));
  EXPECT_THAT(says(check_gbnf(chain(1900))), HasSubstr("alternatives open"));
  std::string words = "root ::= \"w\"";
  for (int i = 0; i < 30'000; ++i) words += fmt::format(" | \"w{}\"", i);
  EXPECT_THAT(says(check_gbnf(words)), HasSubstr("alternatives open"));
}

TEST(GbnfLimitsTest, WaysToReadOneTextAreBounded) {
  EXPECT_THAT(says(check_gbnf("root ::= x\nx ::= \"a\" x \"b\" | \"a\" x \"c\" | \"d\"\n")),
              HasSubstr("ways to read"));
  EXPECT_THAT(
      says(check_gbnf("root ::= x\nx ::= \"a\" y | [a-c] (x \"c\")\ny ::= x \"b\" | \"d\"\n")),
      HasSubstr("ways to read"));
  EXPECT_THAT(says(check_gbnf("root ::= x\np ::= \"a\" p | \"d\"\n"
                              "x ::= p x \"b\" | p x \"c\" | \"e\"\n")),
              HasSubstr("ways to read"));
  // Without recursion it is 2^40 all the same.
  std::string twice = "root ::= r0\n";
  for (int i = 0; i < 40; ++i) {
    twice += fmt::format("r{} ::= \"a\" r{} \"b\" | \"a\" r{} \"c\"\n", i, i + 1, i + 1);
  }
  EXPECT_THAT(says(check_gbnf(twice + "r40 ::= \"a\"\n")), HasSubstr("ways to read"));
}

TEST(GbnfLimitsTest, WaysToReadOneTokenAreBounded) {
  const std::string_view places[] = {"root ::= {}\n", "root ::= \"some text\" {}\n",
                                     "root ::= [a-z]+ x \"!\"\nx ::= {}\n",
                                     "root ::= \"(\" root \")\" | {}\n"};
  for (const std::string_view place : places) {
    const auto in_place = [&](std::string_view part) {
      return says(check_gbnf(fmt::format(fmt::runtime(place), part)));
    };
    for (const char* part :
         {R"(([ ]+)*)", R"(([ ]|[ ])*)", R"(([ ]* [ ]*)*)", R"(("a"? "a"?)+ "c")",
          R"(([a-z]+ [ ]?)*)", R"(("ab" | "a" "b" | [a] "b" | "a" [b])* "c")", R"(([-] | [-]){40})",
          R"([ ]* [ ]* [ ]* [ ]* [ ]*)", R"(([ぁ-ん]+ | [ゔ-ゖ]+)+)"}) {
      EXPECT_THAT(in_place(part), HasSubstr("ways to read one token")) << part;
    }
    for (const char* part : {R"([ ]* [ ]* "x"?)", R"(([ ] | [\t])*)", R"(([a-z]+ " ")*)",
                             R"(([ぁ-ん] | [ァ-ン] | [一-龯])+)", R"([0-9]{1,40} "."? [0-9]*)"}) {
      EXPECT_EQ(in_place(part), "") << part;
    }
  }
}

TEST(GbnfLimitsTest, WaysThroughRecursionAreBounded) {
  for (const char* gbnf :
       {"root ::= x\nx ::= \"a\"? \"a\" x \"b\" | \"c\"\n",
        "root ::= x\nx ::= \"a\" x \"b\"? | \"c\"\n",                 // how many levels end here
        "root ::= x\nx ::= \"a\" x y | \"c\"\ny ::= \"b\" \"b\"?\n",  // who reads the next b
        "root ::= list\nlist ::= [a-z]+ ws (\",\" ws list)? ws\nws ::= [ ]*\n"}) {
    EXPECT_THAT(says(check_gbnf(gbnf)), HasSubstr("ways to read one token")) << gbnf;
  }
  EXPECT_EQ(says(check_gbnf("root ::= x\nx ::= \"a\" x \"b\" | \"a\"? \"c\"\n")), "");
}

TEST(GbnfLimitsTest, GrammarsOfTheWildPass) {
  EXPECT_EQ(says(check_gbnf(R"g(root ::= object
value ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
)g")),
            "");
  EXPECT_EQ(says(check_gbnf(R"g(root ::= (expr "=" ws term "\n")+
expr ::= term ([-+*/] term)*
term ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num ::= [0-9]+ ws
ws ::= [ \t\n]*
)g")),
            "");
  EXPECT_EQ(says(check_gbnf(R"g(root ::= item+
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
)g")),
            "");
  EXPECT_EQ(says(check_gbnf(R"g(root ::= en | jp
en ::= [a-zA-Z0-9 ,.]+
jp ::= "日" jp "本" | "語" jp "本" | [ぁ-ゟ]
)g")),
            "");
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
  EXPECT_THAT(says(check_schema("{", "x")), HasSubstr("x: not JSON"));
  EXPECT_THAT(says(check_schema(R"({"minimum":1e999})", "x")), HasSubstr("x: not JSON"));
}

std::string properties_named(std::string_view prefix, int count) {
  std::string all;
  for (int i = 0; i < count; ++i) {
    all += fmt::format(R"({}"{}{}":{{"type":"string"}})", i == 0 ? "" : ",", prefix, i);
  }
  return all;
}

TEST(SchemaLimitsTest, ReferencesThatLeadNowhereAreRefused) {
  for (const char* schema :
       {R"({"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"$ref":"#/$defs/a"}}})",
        R"({"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}})",
        R"({"$ref":"#/$defs/a","$defs":{"a":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/a"}]}}})",
        R"({"$ref":"#/$defs/a","$defs":{"a":{"oneOf":[{"allOf":[{"$ref":"#/$defs/a"}]}]}}})",
        R"({"allOf":[{"$ref":"#"}]})"}) {
    EXPECT_THAT(says(check_schema(schema, "tools")), HasSubstr("leads back to itself")) << schema;
  }
  EXPECT_EQ(says(check_schema(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{
      "next":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"null"}]},
      "kids":{"type":"array","items":{"$ref":"#/$defs/n"}}}}}})",
                              "x")),
            "");
  EXPECT_EQ(
      says(check_schema(R"({"anyOf":[{"$ref":"#/none"},{"$ref":"http://x/y"},{"$ref":7}]})", "x")),
      "");
}

TEST(SchemaLimitsTest, ChainsOfReferencesAreBounded) {
  const auto chain = [](int count, std::string_view wrapped) {
    std::string defs;
    for (int i = 0; i < count; ++i) {
      const std::string ref = fmt::format(R"({{"$ref":"#/$defs/a{}"}})", i + 1);
      defs += fmt::format(R"("a{}":{},)", i, fmt::format(fmt::runtime(wrapped), ref));
    }
    return fmt::format(R"({{"$ref":"#/$defs/a0","$defs":{{{}"a{}":{{"type":"null"}}}}}})", defs,
                       count);
  };
  EXPECT_EQ(says(check_schema(chain(50, "{}"), "x")), "");
  EXPECT_THAT(says(check_schema(chain(900, "{}"), "x")), HasSubstr("lead on to each other"));
  EXPECT_EQ(says(check_schema(chain(300, R"({{"items":{}}})"), "x")), "");
  EXPECT_THAT(says(check_schema(chain(1900, R"({{"items":{}}})"), "x")),
              HasSubstr("what its $refs name"));
}

TEST(SchemaLimitsTest, WhatReferencesNameIsCounted) {
  std::string values;
  for (int i = 0; i < 6000; ++i) values += R"(,{"const":1})";
  const auto refs = [&](std::string_view second) {
    return fmt::format(R"({{"properties":{{"a":{{"$ref":"#/$defs/d"}}{}}},
        "$defs":{{"d":{{"items":{{"anyOf":[{}]}}}}}}}})",
                       second, values.substr(1));
  };
  EXPECT_EQ(says(check_schema(refs(""), "x")), "");
  EXPECT_EQ(says(check_schema(refs(R"(,"b":{"$ref":"#/$defs/d"})"), "x")), "");
  EXPECT_THAT(says(check_schema(refs(R"(,"b":{"$ref":"#/$defs/d/items"})"), "x")),
              HasSubstr("x: more than 20000 values in what its $refs name"));
  std::string many;
  for (int i = 0; i < 2001; ++i) many += fmt::format(R"(,{{"$ref":"#/none/{}"}})", i);
  EXPECT_THAT(says(check_schema(fmt::format(R"({{"anyOf":[{}]}})", many.substr(1)), "x")),
              HasSubstr("different $refs"));
}

TEST(SchemaLimitsTest, APlaceHasOneReference) {
  const auto refusal = [](std::string_view ref) {
    return says(check_schema(fmt::format(R"({{"items":{{"$ref":"{}"}},"$defs":{{"L":[{{}}],
        "default":{{}}}},"properties":{{"enum":{{}}}},"default":{{"a":{{}}}}}})",
                                         ref),
                             "x"));
  };
  for (const char* ref : {"#/$defs/L/0", "#/$defs/default", "#/properties/enum"}) {
    EXPECT_EQ(refusal(ref), "") << ref;
  }
  // llama.cpp reads all of these as indexes.
  for (const char* index : {"00", "0a", " 0", "+0", "0x0"}) {
    EXPECT_THAT(refusal(fmt::format("#/$defs/L/{}", index)), HasSubstr("plain digits")) << index;
  }
  EXPECT_THAT(refusal("#/default/a"), HasSubstr("leads into a value"));
  EXPECT_THAT(refusal("#/default"), HasSubstr("leads into a value"));
}

TEST(SchemaLimitsTest, NamesAreBounded) {
  for (const std::size_t bytes : {257, 60'000, 120'000}) {
    const std::string name(bytes, '_');
    EXPECT_THAT(says(check_schema(fmt::format(R"({{"properties":{{"{}":{{}}}}}})", name), "x")),
                HasSubstr("x: more than 256 bytes in a name"));
    EXPECT_THAT(says(check_schema(fmt::format(R"({{"$defs":{{"{}":{{}}}}}})", name), "x")),
                HasSubstr("bytes in a name"));
    EXPECT_THAT(says(check_schema(fmt::format(R"({{"enum":[{{"{}":1}}]}})", name), "x")),
                HasSubstr("bytes in a name"));
    EXPECT_THAT(says(check_schema(fmt::format(R"({{"$ref":"#/{}"}})", name), "x")),
                HasSubstr("bytes in a $ref"));
  }
  std::string nested = "{}";
  for (int i = 0; i < 20; ++i) {
    nested = fmt::format(R"({{"properties":{{"{}":{}}}}})", std::string(250, 'p'), nested);
  }
  EXPECT_THAT(says(check_schema(nested, "x")), HasSubstr("names that lead to one place"));
}

TEST(SchemaLimitsTest, NamesAndPartsAreCounted) {
  const auto definitions = [](int count) {
    return fmt::format(R"({{"$defs":{{{}}}}})", properties_named("d", count));
  };
  EXPECT_EQ(says(check_schema(definitions(2000), "x")), "");
  EXPECT_THAT(says(check_schema(definitions(2001), "x")),
              HasSubstr("x: more than 2000 names in one object"));
  const auto parts = [](int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += R"(,{"$ref":"#/$defs/A"})";
    return fmt::format(R"({{"allOf":[{}],"$defs":{{"A":{{"properties":{{}}}}}}}})", all.substr(1));
  };
  EXPECT_EQ(says(check_schema(parts(100), "x")), "");
  EXPECT_THAT(says(check_schema(parts(101), "x")), HasSubstr("x: more than 100 parts of an allOf"));
}

TEST(SchemaLimitsTest, NamesStandOnce) {
  EXPECT_THAT(says(check_schema(R"({"properties":{},"properties":{"a":{}}})", "x")),
              HasSubstr("x: an object has the name \"properties\" twice"));
  EXPECT_THAT(says(check_schema(R"({"properties":{},"propert\u0069es":{"a":{}}})", "x")),
              HasSubstr("twice"));
}

TEST(SchemaLimitsTest, OptionalPropertiesAreAllCounted) {
  std::string unknown;
  for (int i = 0; i < 300; ++i) unknown += fmt::format(R"({}"q{}")", i == 0 ? "" : ",", i);
  EXPECT_THAT(says(check_schema(fmt::format(R"({{"properties":{{{}}},"required":[{}]}})",
                                            properties_named("p", 300), unknown),
                                "x")),
              HasSubstr("optional properties in one object"));
  std::string items;
  for (int i = 0; i < 9; ++i) {
    items +=
        fmt::format(R"({}{{"properties":{{{}}}}})", i == 0 ? "" : ",", properties_named("a", 50));
  }
  EXPECT_THAT(says(check_schema(fmt::format(R"({{"anyOf":[{}]}})", items), "x")),
              HasSubstr("pairs of optional properties"));
}

TEST(SchemaLimitsTest, EnumsAndTypesAreBounded) {
  const auto values = [](int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += fmt::format(R"({}"v{}")", i == 0 ? "" : ",", i);
    return fmt::format(R"({{"enum":[{}]}})", all);
  };
  // Values count by their different beginnings, once they are a grammar.
  EXPECT_EQ(says(check_schema(values(5000), "x")), "");
  EXPECT_EQ(says(check_gbnf(schema_to_gbnf(values(5000)).value())), "");
  const auto nested = [&](int levels) {
    std::string node = values(3000);
    for (int i = 0; i < levels; ++i) {
      node = fmt::format(
          R"({{"type":["object","string","number","null"],"properties":{{"a":{}}}}})", node);
    }
    return fmt::format(R"({{"anyOf":[{0},{0}]}})", node);
  };
  EXPECT_EQ(says(check_schema(nested(5), "x")), "");
  EXPECT_THAT(says(check_schema(nested(25), "x")),
              HasSubstr("values within nodes with lists of types"));
  EXPECT_THAT(says(check_schema(
                  R"({"type":["null","null","null","null","null","null","null","null"]})", "x")),
              HasSubstr("types in a list"));
  std::string doubling = "{}";  // each level is built twice for each time that its parent is
  for (int i = 0; i < 30; ++i) {
    doubling = fmt::format(R"({{"type":["object","object"],"properties":{{"a":{}}}}})", doubling);
  }
  EXPECT_THAT(says(check_schema(doubling, "x")), HasSubstr("has \"object\" twice"));
}

/// What a schema becomes must pass, too.
TEST(SchemaLimitsTest, SchemasOfTheWildPass) {
  std::string tools;
  for (int i = 0; i < 100; ++i) {
    tools += fmt::format(R"({}{{"type":"object","properties":{{"name":{{"const":"tool_{}"}},
        "arguments":{{"type":"object","properties":{{{}}}}}}},"required":["name","arguments"]}})",
                         i == 0 ? "" : ",", i, properties_named("p", 5));
  }
  std::string values;
  for (int i = 0; i < 400; ++i) values += fmt::format(R"({}"value_{}")", i == 0 ? "" : ",", i);
  for (
      const std::string& schema :
      {fmt::format(R"({{"anyOf":[{}]}})", tools), fmt::format(R"({{"enum":[{}]}})", values),
       fmt::format(R"({{"type":"object","additionalProperties":true,"properties":{{{}}}}})",
                   properties_named("property_", 100)),
       fmt::format(
           R"({{"type":"object","properties":{{"a":{{"type":"object","properties":{{{}}}}},{}}}}})",
           properties_named("inner_", 40), properties_named("outer_", 60)),
       std::string(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{
            "op":{"enum":["add","mul"]},"left":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"number"}]},
            "right":{"anyOf":[{"$ref":"#/$defs/n"},{"type":"number"}]}},
            "required":["op","left"]}}})"),
       std::string(R"({"type":"array","items":{},"minItems":2,"maxItems":900})"),
       std::string(R"({"type":["object","array","string","number","null"]})"),
       std::string(R"({"properties":{"s":{"pattern":"^[a-z]+(-[a-z0-9]+)*@x\\.(com|org)$"},
            "d":{"format":"date-time"},
            "i":{"type":"integer","minimum":-5,"maximum":1234567}}})")}) {
    EXPECT_EQ(says(check_schema(schema, "x")), "") << schema;
    const Result<std::string> gbnf = schema_to_gbnf(schema);
    ASSERT_TRUE(gbnf.has_value()) << gbnf.error().message;
    EXPECT_EQ(says(check_gbnf(*gbnf)), "") << *gbnf;
  }
}

TEST(SchemaLimitsTest, RecursionBehindOneBeginningIsStoppedAsAGrammar) {
  const std::string schema = R"({"$ref":"#/$defs/x","$defs":{"x":{"anyOf":[
      {"type":"array","prefixItems":[{"$ref":"#/$defs/x"},{"const":1}]},
      {"type":"array","prefixItems":[{"$ref":"#/$defs/x"},{"const":2}]},{"type":"null"}]}}})";
  EXPECT_EQ(says(check_schema(schema, "x")), "");
  const Result<std::string> gbnf = schema_to_gbnf(schema);
  ASSERT_TRUE(gbnf.has_value()) << gbnf.error().message;
  EXPECT_THAT(says(check_gbnf(*gbnf)), HasSubstr("ways to read"));
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
