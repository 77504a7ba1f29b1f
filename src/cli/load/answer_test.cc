#include "cli/load/answer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace penstock::cli::load {
namespace {

using testing::HasSubstr;

std::string event(const std::string& json) { return "data: " + json + "\n\n"; }

std::string delta(const std::string& fields) {
  return event(R"({"choices":[{"index":0,"delta":{)" + fields + R"(},"finish_reason":null}]})");
}

const std::string kFinish = event(R"({"choices":[{"delta":{},"finish_reason":"stop"}]})");
const std::string kDone = "data: [DONE]\n\n";
const std::string kUsage =
    event(R"({"choices":[],"usage":{"prompt_tokens":40,"completion_tokens":7,)"
          R"("prompt_tokens_details":{"cached_tokens":32}}})");

struct Read {
  std::size_t content_events = 0;
  AnswerReader::Verdict verdict;
  std::optional<Usage> usage;
  std::string text;
};

struct Settings {
  int status = 200;
  Endpoint endpoint = Endpoint::kChat;
  bool stream = true;
  Result<void> transport = {};
};

Read read(const std::string& bytes, const Settings& settings = {}, std::size_t piece_bytes = 9999) {
  ChunkParser parser;
  AnswerReader reader(parser, settings.endpoint, settings.stream, true,
                      {.prompt_tokens = 100, .output_tokens = 20});
  if (settings.status != 0) reader.on_status(settings.status);
  Read result;
  for (std::size_t at = 0; at < bytes.size(); at += piece_bytes) {
    result.content_events += reader.on_body(std::string_view(bytes).substr(at, piece_bytes));
  }
  result.verdict = reader.judge(settings.transport);
  result.usage = reader.usage();
  result.text = reader.text();
  return result;
}

TEST(AnswerReaderTest, CountsContentAndTakesUsage) {
  const Read result =
      read(delta(R"("role":"assistant","content":"")") + delta(R"("reasoning_content":"hm")") +
           delta(R"("reasoning":"hm")") + ": a comment\n\n" + delta(R"("content":"Hello ")") +
           delta(R"("content":"w\u00f6rld")") +
           delta(R"("tool_calls":[{"index":0,"function":{"arguments":"{"}}])") +
           delta(R"("content":null)") + kFinish + kUsage + kDone);
  EXPECT_EQ(result.verdict.outcome, Outcome::kOk) << result.verdict.message;
  EXPECT_EQ(result.content_events, 5U);
  EXPECT_EQ(result.text, "Hello wörld");
  ASSERT_TRUE(result.usage);
  EXPECT_EQ(result.usage->prompt_tokens, 40U);
  EXPECT_EQ(result.usage->cached_tokens, 32U);
  EXPECT_EQ(result.usage->output_tokens, 7U);
}

TEST(AnswerReaderTest, AUsageThatCannotBeIsNotBelieved) {
  const auto with_usage = [](const std::string& usage) {
    return read(delta(R"("content":"x")") + kFinish +
                event(R"({"choices":[],"usage":{)" + usage + "}}") + kDone);
  };
  for (const char* usage :
       {R"("prompt_tokens":40,"completion_tokens":1000000000000)",
        R"("prompt_tokens":40,"completion_tokens":18446744073709551615)",
        R"("prompt_tokens":1000000000000,"completion_tokens":7)",
        R"("prompt_tokens":4,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":5})"}) {
    const Read result = with_usage(usage);
    EXPECT_EQ(result.verdict.outcome, Outcome::kMalformed) << usage;
    EXPECT_THAT(result.verdict.message, HasSubstr("its usage says")) << usage;
    EXPECT_FALSE(result.usage) << usage;
  }
  // Servers that heed max_tokens loosely, and templates longer than the prompt.
  EXPECT_EQ(with_usage(R"("prompt_tokens":3000,"completion_tokens":41)").verdict.outcome,
            Outcome::kOk);
}

TEST(AnswerReaderTest, CompletionsHaveText) {
  const Read result =
      read(event(R"({"choices":[{"text":"a","finish_reason":null}]})") +
               event(R"({"choices":[{"text":"b","finish_reason":"length"}]})") + kDone,
           {.endpoint = Endpoint::kCompletions});
  EXPECT_EQ(result.verdict.outcome, Outcome::kOk);
  EXPECT_EQ(result.content_events, 2U);
  EXPECT_EQ(result.text, "ab");
  EXPECT_FALSE(result.usage);
}

TEST(AnswerReaderTest, WholeAnswers) {
  const Read chat = read(R"({"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],
               "usage":{"prompt_tokens":3,"completion_tokens":1}})",
                         {.stream = false}, 5);
  EXPECT_EQ(chat.verdict.outcome, Outcome::kOk) << chat.verdict.message;
  EXPECT_EQ(chat.content_events, 0U);
  EXPECT_EQ(chat.text, "hi");
  EXPECT_EQ(chat.usage->cached_tokens, 0U);
  const Read tool = read(
      R"({"choices":[{"message":{"content":null,"tool_calls":[{}]},"finish_reason":"tool_calls"}]})",
      {.stream = false});
  EXPECT_EQ(tool.verdict.outcome, Outcome::kOk);
}

TEST(AnswerReaderTest, EachFailureHasItsKind) {
  const std::string hi = delta(R"("content":"hi")");
  const Result<void> closed = fail(Code::kUnavailable, "closed early");
  const Result<void> late = fail(Code::kDeadlineExceeded, "too late");
  const std::string error = event(R"({"error":{"message":"boom","code":500}})");
  const struct {
    const char* what;
    std::string bytes;
    Settings settings;
    Outcome outcome;
    const char* says;
  } cases[] = {
      {"status with OpenAI's error",
       R"({"error":{"message":"slow down"}})",
       {.status = 429},
       Outcome::kStatus,
       "429: slow down"},
      {"status with another body", "<html>", {.status = 502}, Outcome::kStatus, "502: <html>"},
      {"status without a body", "", {.status = 503}, Outcome::kStatus, "503"},
      {"status, then closed",
       "half",
       {.status = 500, .transport = closed},
       Outcome::kStatus,
       "500"},
      {"no answer in time", "", {.status = 0, .transport = late}, Outcome::kTimeout, "too late"},
      {"half an answer in time", hi, {.transport = late}, Outcome::kTimeout, "too late"},
      {"refused", "", {.status = 0, .transport = closed}, Outcome::kConnection, "closed early"},
      {"closed in the middle", hi, {.transport = closed}, Outcome::kConnection, "closed early"},
      {"closed after the finish", hi + kFinish, {.transport = closed}, Outcome::kConnection, ""},
      {"error object", hi + error, {}, Outcome::kStreamError, "boom"},
      {"error object, then [DONE]",
       hi + error + kFinish + kDone,
       {},
       Outcome::kStreamError,
       "boom"},
      {"error object, then closed", error, {.transport = closed}, Outcome::kStreamError, "boom"},
      {"error as text", event(R"({"error":"oops"})"), {}, Outcome::kStreamError, "oops"},
      {"error as an event's name",
       "event: error\n" + event(R"({"detail":"bad"})"),
       {},
       Outcome::kStreamError,
       "bad"},
      {"object: error",
       event(R"({"object":"error","message":"no such"})"),
       {},
       Outcome::kStreamError,
       "no such"},
      {"no [DONE]", hi + kFinish, {}, Outcome::kIncomplete, "[DONE]"},
      {"no finish_reason", hi + kDone, {}, Outcome::kIncomplete, "finish_reason"},
      {"nothing at all", "", {}, Outcome::kIncomplete, "finish_reason"},
      {"no content", delta(R"("content":"")") + kFinish + kDone, {}, Outcome::kEmpty, "empty"},
      {"no JSON in an event",
       hi + event("{oops") + kFinish + kDone,
       {},
       Outcome::kMalformed,
       "{oops"},
      {"an array in an event", event("[1]"), {}, Outcome::kMalformed, "[1]"},
      {"whole: no JSON", "hello", {.stream = false}, Outcome::kMalformed, "hello"},
      {"whole: nothing", "", {.stream = false}, Outcome::kMalformed, "JSON"},
      {"whole: closed",
       "{",
       {.stream = false, .transport = closed},
       Outcome::kConnection,
       "closed early"},
      {"whole: no finish_reason",
       R"({"choices":[{"message":{"content":"x"}}]})",
       {.stream = false},
       Outcome::kIncomplete,
       "finish_reason"},
      {"whole: empty",
       R"({"choices":[{"message":{"content":""},"finish_reason":"stop"}]})",
       {.stream = false},
       Outcome::kEmpty,
       "empty"},
      {"whole: error",
       R"({"error":{"message":"boom"}})",
       {.stream = false},
       Outcome::kStreamError,
       "boom"},
  };
  for (const auto& c : cases) {
    const Read result = read(c.bytes, c.settings);
    EXPECT_EQ(name_of(result.verdict.outcome), name_of(c.outcome)) << c.what;
    EXPECT_THAT(result.verdict.message, HasSubstr(c.says)) << c.what;
    EXPECT_LE(result.verdict.message.size(), kMessageBytesMax);
  }
}

TEST(AnswerReaderTest, WhatComesAfterDoneDoesNotMatter) {
  const std::string good = delta(R"("content":"hi")") + kFinish + kDone;
  for (const Result<void>& transport :
       {Result<void>(), Result<void>(fail(Code::kUnavailable, "closed")),
        Result<void>(fail(Code::kDeadlineExceeded, "late"))}) {
    const Read result =
        read(good + event("{oops") + delta(R"("content":"more")"), {.transport = transport});
    EXPECT_EQ(result.verdict.outcome, Outcome::kOk);
    EXPECT_EQ(result.content_events, 1U);
  }
}

TEST(AnswerReaderTest, AnySplitGivesTheSame) {
  const std::string streams[] = {
      delta(R"("content":"a")") + delta(R"("content":"ü")") + kFinish + kUsage + kDone,
      delta(R"("content":"a")") + event(R"({"error":"x"})"),
      delta(R"("content":"a")") + event("{oops") + kDone,
  };
  for (const std::string& bytes : streams) {
    const Read whole = read(bytes);
    for (std::size_t piece_bytes = 1; piece_bytes < bytes.size(); ++piece_bytes) {
      const Read split = read(bytes, {}, piece_bytes);
      EXPECT_EQ(split.content_events, whole.content_events) << piece_bytes;
      EXPECT_EQ(split.verdict.outcome, whole.verdict.outcome) << piece_bytes;
      EXPECT_EQ(split.verdict.message, whole.verdict.message) << piece_bytes;
      EXPECT_EQ(split.text, whole.text) << piece_bytes;
    }
  }
}

TEST(AnswerReaderTest, StrangeShapesAreAbsentNotFatal) {
  for (const char* json :
       {"{}", R"({"choices":null})", R"({"choices":{}})", R"({"choices":[null]})",
        R"({"choices":[{"delta":[]}]})", R"({"choices":[{"delta":{"content":5}}],"usage":[]})",
        R"({"choices":[],"usage":{"prompt_tokens":"x","prompt_tokens_details":3}})",
        R"({"choices":[{"finish_reason":7}],"error":null})"}) {
    const Read result = read(event(json) + delta(R"("content":"hi")") + kFinish + kDone);
    EXPECT_EQ(result.verdict.outcome, Outcome::kOk) << json;
    EXPECT_EQ(result.content_events, 1U) << json;
  }
}

TEST(ChunkParserTest, FirstModel) {
  ChunkParser parser;
  EXPECT_EQ(*parser.parse_first_model(R"({"data":[{"id":"a"},{"id":"b"}]})"), "a");
  for (const char* json : {"", "[]", "{}", R"({"data":[]})", R"({"data":[{}]})",
                           R"({"data":[{"id":""}]})", R"({"data":[7]})", R"({"data":{}})"}) {
    EXPECT_FALSE(parser.parse_first_model(json)) << json;
  }
}

}  // namespace
}  // namespace penstock::cli::load
