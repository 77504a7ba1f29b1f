#include "api/internal/json_reader.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "api/openai.h"
#include "api/padded_body.h"

namespace penstock::api {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

/// Passes over the whole body without reading a value.
Error walk(std::string_view text, char filler = ' ') {
  const PaddedBody body(text, filler);
  JsonReader json(body.view());
  std::string_view key;
  while (json.next_field(key)) {
  }
  return json.ok() ? Error{Code::kInternal, "accepted", {}} : json.take_error();
}

/// `at` is where the text stops being JSON; the message may be a token off.
void expect_syntax_error(std::string_view text, std::string_view what, int at) {
  const Error error = walk(text);
  EXPECT_EQ(error.code, Code::kInvalidArgument) << text;
  EXPECT_THAT(error.message, StartsWith("the body is not valid JSON: ")) << text;
  EXPECT_THAT(error.message, HasSubstr(std::string(what))) << text;
  const std::size_t offset = error.message.rfind(" near byte ");
  ASSERT_NE(offset, std::string::npos) << error.message;
  EXPECT_NEAR(std::stoi(error.message.substr(offset + 11)), at, 2) << error.message;
  // What follows the body changes the wording at most.
  EXPECT_THAT(walk(text, '}').message, StartsWith("the body is not valid JSON: ")) << text;
}

TEST(JsonReader, SaysWhereABodyBreaks) {
  expect_syntax_error("", "empty", 0);
  expect_syntax_error(" \n\t ", "empty", 0);
  expect_syntax_error("{", "does not end", 1);
  expect_syntax_error(R"({"a":1)", "does not end", 6);
  expect_syntax_error(R"({"a":1}x)", "does not end", 8);
  expect_syntax_error(R"({"a":1} {})", "something follows", 8);
  expect_syntax_error(R"({"a":1}})", "something follows", 7);
  expect_syntax_error(R"({"a":1]})", "expected ','", 7);
  expect_syntax_error(R"({"a":[1,2})", "expected ','", 10);
  expect_syntax_error(R"({"a":{"b":1})", "expected ','", 12);
  expect_syntax_error(R"({"a" 1})", "expected ','", 6);
  expect_syntax_error(R"({"a":1 "b":2})", "expected ','", 7);
  expect_syntax_error(R"({a:1})", "expected ','", 2);
  expect_syntax_error(R"({,})", "expected ','", 2);
  expect_syntax_error(R"({"a":1,})", "expected ','", 8);
  expect_syntax_error(R"({"a":[1 2]})", "expected ','", 9);
  expect_syntax_error(R"({"a":})", "expected a value", 5);
  expect_syntax_error(R"({"a":[1,]})", "expected a value", 8);
  expect_syntax_error(R"({"a":[,1]})", "expected a value", 6);
  expect_syntax_error(R"({"a":tru})", "expected a value", 5);
  expect_syntax_error(R"({"a":truest})", "expected a value", 5);
  expect_syntax_error(R"({"a":NaN})", "got NaN", 5);
  expect_syntax_error(R"({"a":-Infinity})", "got -Infinity", 5);
  expect_syntax_error(R"({"a":'b'})", "expected a value", 5);
  expect_syntax_error(R"({"a":"b)", "not closed", 7);
  expect_syntax_error("{\"a\":\"b\nc\"}", "control character", 7);
  expect_syntax_error("{\"a\":\"\\\\\",\"b\":\"\x01\"}", "control character", 15);
  expect_syntax_error("{\"a\":\"\xC3\"}", "UTF-8", 6);
  expect_syntax_error("{\"a\":\"\xED\xA0\x80\"}", "UTF-8", 6);
  expect_syntax_error(R"({"a":"\x"})", "bad escape", 5);
  expect_syntax_error(R"({"a":"\u12g4"})", "bad escape", 5);
  expect_syntax_error(R"({"a":"\ud83d alone"})", "surrogate", 5);
  expect_syntax_error(R"({"\x":1})", "bad escape", 5);
}

TEST(JsonReader, TellsAWrongKindOfDocument) {
  EXPECT_EQ(walk("[1]").message, "the body must be a JSON object, got an array");
  EXPECT_EQ(walk(" \"a\" ").message, "the body must be a JSON object, got a string");
  EXPECT_EQ(walk("12").message, "the body must be a JSON object, got a number");
  EXPECT_EQ(walk("true").message, "the body must be a JSON object, got a boolean");
  EXPECT_EQ(walk("null").message, "the body must be a JSON object, got null");
  expect_syntax_error("hello", "expected a value", 0);
  expect_syntax_error("\xEF\xBB\xBF{}", "expected a value", 0);
}

TEST(JsonReader, KnowsNumbers) {
  for (const char* number : {"0", "-0", "7", "-12", "0.5", "-0.25", "1e5", "1E+5", "1.5e-300",
                             "1e999", "123456789012345678901234567890"}) {
    EXPECT_EQ(walk("{\"a\":" + std::string(number) + "}").message, "accepted") << number;
  }
  for (const char* number : {"01", "-01", "1.", ".5", "-", "--1", "1e", "1e+", "0x10", "1_000",
                             "+1", "1.e5", "1.5.5", "00", "Infinity", "1\f"}) {
    EXPECT_THAT(walk("{\"a\":" + std::string(number) + "}").message, StartsWith("the body is not"))
        << number;
  }
}

TEST(JsonReader, NeverShowsTextThatIsNoJson) {
  EXPECT_THAT(walk(R"({"a":secret})").message, testing::Not(HasSubstr("secret")));
  EXPECT_THAT(walk(R"({"a":[secret]})").message, testing::Not(HasSubstr("secret")));
}

TEST(JsonReader, ValidatesWhatNobodyReads) {
  EXPECT_EQ(walk(R"({"a":{"b":[1,{"c":"d\n"},[]],"e":null},"f":"\ud83d\ude42"})").message,
            "accepted");
  EXPECT_THAT(walk(R"({"a":{"b":[1,{"c":tru}]}})").param, "a.b[1].c");
  EXPECT_THAT(walk(R"({"a":[[],["\q"]]})").param, "a[1][0]");
}

TEST(JsonReader, HoldsNestingToItsLimit) {
  const auto nested = [](std::size_t levels, std::string_view open, std::string_view close) {
    std::string text = R"({"a":)";
    for (std::size_t i = 1; i < levels; ++i) text += open;
    text += "1";
    for (std::size_t i = 1; i < levels; ++i) text += close;
    return text + "}";
  };
  EXPECT_EQ(walk(nested(kJsonDepthMax, "[", "]")).message, "accepted");
  EXPECT_EQ(walk(nested(kJsonDepthMax, "{\"b\":", "}")).message, "accepted");
  EXPECT_THAT(walk(nested(kJsonDepthMax + 1, "[", "]")).message, HasSubstr("deeper than 64"));
  EXPECT_THAT(walk(nested(kJsonDepthMax + 1, "{\"b\":", "}")).message, HasSubstr("deeper than 64"));
  EXPECT_THAT(walk(nested(100000, "[", "]")).message, HasSubstr("deeper than 64"));
}

TEST(JsonReader, GivesValuesInDocumentOrder) {
  const PaddedBody body(R"( { "a\u0062" : "x\ty" , "n":-1.50, "o" : { "p" : [ 1 , {"q":2} ] } , )"
                        R"("t":true, "z":[] } )");
  JsonReader json(body.view());
  std::string_view key;

  ASSERT_TRUE(json.next_field(key));
  EXPECT_EQ(key, "ab");
  EXPECT_EQ(json.type(), JsonType::kString);
  EXPECT_EQ(json.string(), "x\ty");

  ASSERT_TRUE(json.next_field(key));
  EXPECT_EQ(json.type(), JsonType::kNumber);
  EXPECT_EQ(json.token(), "-1.50");
  EXPECT_EQ(json.raw(), "-1.50");

  ASSERT_TRUE(json.next_field(key));
  EXPECT_EQ(json.type(), JsonType::kObject);
  EXPECT_EQ(json.raw(), R"({ "p" : [ 1 , {"q":2} ] })");

  ASSERT_TRUE(json.next_field(key));
  EXPECT_EQ(json.type(), JsonType::kBool);
  EXPECT_EQ(json.token(), "true");

  ASSERT_TRUE(json.next_field(key));
  EXPECT_EQ(json.type(), JsonType::kArray);
  json.enter_array();
  EXPECT_FALSE(json.next_element());
  EXPECT_FALSE(json.next_field(key));
  EXPECT_TRUE(json.ok());
}

TEST(JsonReader, NamesThePlaceOfAFailure) {
  const PaddedBody body(R"({"a":[0,{"b":{"c":1}}]})");
  JsonReader json(body.view());
  std::string_view key;
  ASSERT_TRUE(json.next_field(key));
  json.enter_array();
  ASSERT_TRUE(json.next_element());
  ASSERT_TRUE(json.next_element());
  json.enter_object();
  ASSERT_TRUE(json.next_field(key));
  json.enter_object();
  while (json.next_field(key)) {
  }
  EXPECT_FALSE(json.fail_below("d", "missing"));
  EXPECT_FALSE(json.fail("a later failure does not count"));
  EXPECT_FALSE(json.next_field(key));
  const Error error = json.take_error();
  EXPECT_EQ(error.param, "a[1].b.d");
  EXPECT_EQ(error.message, "a[1].b.d: missing");
}

TEST(JsonReader, ShortensWhatItShows) {
  const std::string long_text(500, 'x');
  const PaddedBody body("{\"a\":\"" + long_text + "\"}");
  JsonReader json(body.view());
  std::string_view key;
  ASSERT_TRUE(json.next_field(key));
  json.expected("a number");
  const std::string message = json.take_error().message;
  EXPECT_EQ(message, "a: expected a number, got \"" + std::string(56, 'x') + "...");

  EXPECT_EQ(shorten("a\nb\x7f"), "a?b?");
  EXPECT_EQ(shorten(std::string(60, 'y')), std::string(60, 'y'));
  // 19 characters of 3 bytes end at byte 57; a cut at 57 after one ASCII byte would split the 19th.
  std::string wide = "z";
  for (int i = 0; i < 30; ++i) wide += "日";
  std::string shown = "z";
  for (int i = 0; i < 18; ++i) shown += "日";
  EXPECT_EQ(shorten(wide), shown + "...");
}

TEST(JsonReader, ThreadsDoNotDisturbEachOther) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const std::string mark(static_cast<std::size_t>(t) * 100 + 1, static_cast<char>('a' + t));
      const PaddedBody body(fmt::format(R"({{"k":["{}",{{"{}":1}}]}})", mark, mark));
      for (int round = 0; round < 200; ++round) {
        JsonReader json(body.view());
        std::string_view key;
        ASSERT_TRUE(json.next_field(key));
        json.enter_array();
        ASSERT_TRUE(json.next_element());
        ASSERT_EQ(json.string(), mark);
        ASSERT_TRUE(json.next_element());
        json.enter_object();
        ASSERT_TRUE(json.next_field(key));
        ASSERT_EQ(key, mark);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(JsonReader, ReadsOnAfterALargeBody) {
  const std::string text(JsonReader::kKeptBodyBytesMax + 1000, 'x');
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(walk("{\"a\":\"" + text + "\"}").message, "accepted");
    EXPECT_EQ(walk(R"({"a":1})").message, "accepted");
  }
}

}  // namespace
}  // namespace penstock::api
