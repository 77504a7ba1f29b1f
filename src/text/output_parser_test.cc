#include "text/output_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace penstock::text {
namespace {

struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<std::pair<std::string, std::string>> calls;  // name, arguments
  friend bool operator==(const Answer&, const Answer&) = default;
};

Answer read(const AnswerFormat& format, std::string_view text, std::mt19937* random) {
  Result<std::unique_ptr<OutputParser>> parser = make_output_parser(format);
  EXPECT_TRUE(parser.has_value());
  std::vector<AnswerDelta> deltas;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t size = random == nullptr
                                 ? text.size()
                                 : std::min<std::size_t>(1 + (*random)() % 6, text.size() - at);
    (*parser)->feed(text.substr(at, size), deltas);
    at += size;
  }
  (*parser)->finish(deltas);
  Answer answer;
  for (const AnswerDelta& d : deltas) {
    switch (d.kind) {
      case AnswerDelta::Kind::kContent: answer.content += d.text; break;
      case AnswerDelta::Kind::kReasoning: answer.reasoning += d.text; break;
      case AnswerDelta::Kind::kToolStart:
        EXPECT_EQ(d.tool_index, answer.calls.size());
        answer.calls.emplace_back(d.text, "");
        break;
      case AnswerDelta::Kind::kToolArguments:
        EXPECT_LT(d.tool_index, answer.calls.size());
        answer.calls[d.tool_index].second += d.text;
        break;
    }
  }
  return answer;
}

const AnswerFormat kTags{.kind = AnswerFormat::Kind::kToolTags, .parse_tool_calls = true};

TEST(ToolTagParserTest, TellsCallsAndContentApart) {
  const Answer answer =
      read(kTags,
           "Let me look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\"}}\n"
           "</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":{}}</tool_call>\n",
           nullptr);
  EXPECT_EQ(answer.content, "Let me look.\n");
  ASSERT_EQ(answer.calls.size(), 2u);
  EXPECT_EQ(answer.calls[0], (std::pair<std::string, std::string>{"f", "{\"a\": \"}\\\"{\"}"}));
  EXPECT_EQ(answer.calls[1], (std::pair<std::string, std::string>{"g", "{}"}));
}

TEST(ToolTagParserTest, WhatNeverBecomesACallIsContent) {
  for (const std::string text :
       {"<tool_call> not json </tool_call>", "<tool_call>{\"nome\": 1}", "<tool_cal",
        "a < b <tool_call", "<tool_call>{\"name\": \"f\", \"arguments\": 7}",
        "<tool_call>{\"name\": \"f\""}) {
    const Answer answer = read(kTags, text, nullptr);
    EXPECT_EQ(answer.content, text);
    EXPECT_TRUE(answer.calls.empty());
  }
}

TEST(ToolTagParserTest, E10_AnySplitGivesTheSame) {
  std::mt19937 random(9);
  static const std::vector<std::string> kParts = {"<tool_call>",
                                                  "</tool_call>",
                                                  "\n",
                                                  " ",
                                                  "{\"name\": \"f\", \"arguments\": ",
                                                  "{\"x\": [1, {\"y\": \"}\"}]}",
                                                  "{}",
                                                  "}",
                                                  "text",
                                                  "<",
                                                  "<tool",
                                                  "\"",
                                                  "é"};
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (std::size_t n = random() % 9; n > 0; --n) text += kParts[random() % kParts.size()];
    const Answer whole = read(kTags, text, nullptr);
    EXPECT_EQ(read(kTags, text, &random), whole) << text;
  }
}

const ThoughtTags kThink{.open = "<think>", .close = "</think>"};

Answer read_thinking(const ThoughtTags& tags, std::string_view text, std::mt19937* random) {
  return read({.kind = AnswerFormat::Kind::kToolTags, .thoughts = tags}, text, random);
}

TEST(ThoughtParserTest, TellsThoughtsFromTheAnswerAndItsCalls) {
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  Answer answer = read_thinking(kThink, "\n<think>so </thin <tool_call></think>" + call, nullptr);
  EXPECT_EQ(answer.reasoning, "so </thin <tool_call>");
  EXPECT_EQ(answer.content, "");
  ASSERT_EQ(answer.calls.size(), 1u);
  EXPECT_EQ(answer.calls[0].first, "f");

  answer = read_thinking(kThink, "I see.\n<think>" + call, nullptr);
  EXPECT_EQ(answer.content, "I see.\n<think>");
  EXPECT_EQ(answer.calls.size(), 1u);

  const ThoughtTags begun{.open = "<think>", .close = "</think>", .begun = true};
  answer = read_thinking(begun, "so</think>\nYes", nullptr);
  EXPECT_EQ(answer.reasoning, "so");
  EXPECT_EQ(answer.content, "\nYes");
  EXPECT_EQ(read_thinking(begun, "cut o</th", nullptr).reasoning, "cut o</th");
  EXPECT_EQ(read_thinking(kThink, " <thi", nullptr).content, " <thi");

  ThoughtTags ending = begun;
  ending.ends_with_call = true;
  answer = read_thinking(ending, "so " + call, nullptr);
  EXPECT_EQ(answer.reasoning, "so ");
  EXPECT_EQ(answer.calls.size(), 1u);
}

TEST(ThoughtParserTest, E10_AnySplitGivesTheSame) {
  std::mt19937 random(10);
  static const std::vector<std::string> kParts = {
      "<think>",      "</think>", "\n", "<tool_call>", "{\"name\": \"f\", \"arguments\": {}}",
      "</tool_call>", "text",     "<",  "</",          "é"};
  for (int i = 0; i < 4000; ++i) {
    std::string text;
    for (std::size_t n = random() % 9; n > 0; --n) text += kParts[random() % kParts.size()];
    ThoughtTags tags = kThink;
    tags.begun = i % 2 == 0;
    tags.ends_with_call = i % 4 < 2;
    EXPECT_EQ(read_thinking(tags, text, &random), read_thinking(tags, text, nullptr)) << text;
  }
}

}  // namespace
}  // namespace penstock::text
