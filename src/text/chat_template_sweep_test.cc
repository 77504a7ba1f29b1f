// Every ordinary set of tools is accepted by every template that llama.cpp ships. Its sources hold
// them in models/templates; PENSTOCK_TEMPLATES names that folder, and without it the test is
// skipped: a build has llama.cpp's libraries alone.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/demo_model.h"
#include "text/output_parser.h"

namespace penstock::text {
namespace {

struct NamedSchema {
  std::string name;
  std::string parameters;
};

/// As people's code and the usual generators write them.
std::vector<NamedSchema> ordinary_schemas() {
  std::string many = R"({"type":"object","properties":{)";
  for (int i = 0; i < 40; ++i) {
    many += fmt::format(R"({}"field_{}":{{"type":"{}","description":"Field {}"}})",
                        i == 0 ? "" : ",", i, i % 2 == 0 ? "string" : "integer", i);
  }
  many += R"(},"required":["field_0","field_1"]})";
  return {
      {"none", ""},
      {"empty", R"({"type":"object","properties":{}})"},
      {"blank", "{}"},
      {"plain", R"({"type":"object","properties":{"city":{"type":"string","description":"City"},
          "unit":{"type":"string","enum":["celsius","fahrenheit"]},"days":{"type":"integer"}},
          "required":["city"],"additionalProperties":false})"},
      {"nested", R"({"type":"object","properties":{"where":{"type":"object","properties":{
          "lat":{"type":"number"},"lon":{"type":"number"}},"required":["lat","lon"]},
          "tags":{"type":"array","items":{"type":"string"},"minItems":1,"maxItems":5}},
          "required":["where"]})"},
      {"pydantic optional", R"({"properties":{"a":{"anyOf":[{"type":"string"},{"type":"null"}],
          "default":null,"title":"A"},"b":{"default":3,"title":"B","type":"integer"}},
          "title":"Args","type":"object"})"},
      {"pydantic defs", R"({"$defs":{"Unit":{"enum":["c","f"],"title":"Unit","type":"string"},
          "Place":{"properties":{"name":{"title":"Name","type":"string"}},"required":["name"],
          "title":"Place","type":"object"}},"properties":{"place":{"$ref":"#/$defs/Place"},
          "unit":{"allOf":[{"$ref":"#/$defs/Unit"}],"default":"c"},
          "others":{"items":{"$ref":"#/$defs/Place"},"type":"array"}},
          "required":["place"],"title":"Query","type":"object"})"},
      {"root ref", R"({"$ref":"#/definitions/Args","definitions":{"Args":{"type":"object",
          "properties":{"query":{"type":"string"},"limit":{"type":"integer"}},
          "required":["query"],"additionalProperties":false}},
          "$schema":"http://json-schema.org/draft-07/schema#"})"},
      {"recursive root ref", R"({"$defs":{"Node":{"properties":{"value":{"type":"integer"},
          "children":{"items":{"$ref":"#/$defs/Node"},"type":"array"}},"required":["value"],
          "type":"object"}},"$ref":"#/$defs/Node"})"},
      {"recursive", R"({"$defs":{"Node":{"properties":{"value":{"type":"integer"},
          "next":{"anyOf":[{"$ref":"#/$defs/Node"},{"type":"null"}]}},"required":["value"],
          "type":"object"}},"properties":{"list":{"$ref":"#/$defs/Node"}},"type":"object"})"},
      {"recursive root", R"({"type":"object","properties":{"value":{"type":"integer"},
          "children":{"type":"array","items":{"$ref":"#"}}},"required":["value"]})"},
      {"other node", R"({"type":"object","properties":{"node":{"$ref":"#/$defs/Node"}},
          "$defs":{"Node":{"type":"object","properties":{"name":{"type":"string"}}}}})"},
      {"root union", R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},
          "x":{"type":"integer"}},"required":["kind","x"]},{"type":"object","properties":{
          "kind":{"const":"b"},"y":{"type":"string"}},"required":["kind"]}]})"},
      {"map", R"({"type":"object","properties":{"headers":{"type":"object",
          "additionalProperties":{"type":"string"}},"body":{"type":"object"},"any":{}},
          "required":["headers"]})"},
      {"free", R"({"type":"object","additionalProperties":true})"},
      {"bounds", R"({"type":"object","properties":{"code":{"type":"string",
          "pattern":"^[A-Z]{3}-[0-9]+$"},"when":{"type":"string","format":"date-time"},
          "mail":{"type":"string","format":"email"},"n":{"type":"integer","minimum":1,
          "maximum":100},"p":{"type":"number","minimum":0,"exclusiveMaximum":1},
          "s":{"type":"string","minLength":1,"maxLength":200}},"required":["code","n"]})"},
      {"type lists", R"({"type":"object","properties":{"a":{"type":["string","null"]},
          "b":{"type":["integer","string"]},"c":{"type":["array","null"],
          "items":{"type":"string"}}},"required":["a","b"]})"},
      {"odd names", R"({"type":"object","properties":{"@type":{"type":"string"},
          "x-y":{"type":"boolean"},"a.b":{"type":"string"},"größe":{"type":"integer"},
          "with space":{"type":"string"},"class":{"type":"string"},"name":{"type":"string"},
          "type":{"type":"string"},"properties":{"type":"object"}},
          "required":["@type","name"]})"},
      {"arrays", R"({"type":"object","properties":{"pair":{"type":"array","prefixItems":[
          {"type":"number"},{"type":"string"}]},"any":{"type":"array"},"deep":{"type":"array",
          "items":{"type":"array","items":{"type":"object","properties":{"k":{"type":"string"}}}}},
          "set":{"type":"array","items":{"enum":["a","b"]},"uniqueItems":true}}})"},
      {"many fields", many},
  };
}

const std::string kDescription =
    "Does \"it\" — and {{ more }} than {% that %}:\n- <b>first</b>\n- `second` \\ 100 %";

class Sweep : public testing::Test {
 protected:
  void SetUp() override {
    PENSTOCK_NEED_DEMO_MODEL();
    // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing writes the environment
    const char* folder = std::getenv("PENSTOCK_TEMPLATES");
    if (folder == nullptr) GTEST_SKIP() << "PENSTOCK_TEMPLATES names no folder of templates";
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".jinja") paths_.insert(entry.path());
    }
    tokenizer_ = std::move(*Tokenizer::open(demo_vocabulary()));
  }

  std::set<std::filesystem::path> paths_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(Sweep, OrdinaryToolsAreAcceptedByEveryTemplate) {
  using Mode = Conversation::ToolMode;
  const std::vector<NamedSchema> schemas = ordinary_schemas();
  std::size_t rendered = 0;
  for (const std::filesystem::path& path : paths_) {
    std::ifstream in(path);
    const std::string source((std::istreambuf_iterator<char>(in)), {});
    const auto chat = ChatTemplate::open(*demo_vocabulary(), *tokenizer_, source);
    ASSERT_TRUE(chat.has_value()) << path << ": " << chat.error().message;
    TemplateCache cache;
    const auto accepts = [&](const std::vector<ToolText>& tools, std::string_view what) {
      for (const Mode mode : {Mode::kAuto, Mode::kRequired, Mode::kNone}) {
        for (const bool parallel : {true, false}) {
          Conversation c;
          c.messages.push_back({.role = "user", .content = "Do it."});
          c.tools = tools;
          c.tool_mode = mode;
          c.parallel_tool_calls = parallel;
          const Result<RenderedPrompt> prompt = (*chat)->render(c, cache);
          ++rendered;
          const std::string where = fmt::format("{}, {}, mode {}", path.filename().string(), what,
                                                static_cast<int>(mode));
          if (!prompt) {
            ADD_FAILURE() << where << ": " << prompt.error().message;
            continue;
          }
          EXPECT_TRUE(make_output_parser(prompt->format).has_value()) << where;
          EXPECT_TRUE(mode != Mode::kRequired || !prompt->grammar.gbnf.empty()) << where;
        }
      }
    };
    std::vector<ToolText> all;
    std::vector<std::string> names;
    for (std::size_t i = 0; i < schemas.size(); ++i) names.push_back(fmt::format("tool-{}_x", i));
    for (std::size_t i = 0; i < schemas.size(); ++i) {
      accepts({{names[i], kDescription, schemas[i].parameters}}, schemas[i].name);
      all.push_back({names[i], "", schemas[i].parameters});
    }
    accepts(all, "all together");
  }
  fmt::print("{} templates, {} prompts\n", paths_.size(), rendered);
}

}  // namespace
}  // namespace penstock::text
