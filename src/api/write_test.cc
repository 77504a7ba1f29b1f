#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "api/openai.h"

namespace penstock::api {
namespace {

const AnswerHead kHead{"chatcmpl-1", 1700000000, "demo \"q4\""};

constexpr std::string_view kChunkHead =
    R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,)"
    R"("model":"demo \"q4\"","choices":[)";

std::string chunk(std::string_view choice, std::string_view tail = "]}\n\n") {
  std::string event(kChunkHead);
  event += choice;
  event += tail;
  return event;
}

std::string completion_chunk(std::string_view choice, std::string_view tail = "]}\n\n") {
  std::string event = R"(data: {"id":"chatcmpl-1","object":"text_completion",)"
                      R"("created":1700000000,"model":"demo \"q4\"","choices":[)";
  event += choice;
  event += tail;
  return event;
}

/// What `write` appends; checked to leave alone what was there before.
template <class Write>
std::string written(const Write& write) {
  std::string out = "before|";
  write(out);
  EXPECT_TRUE(out.starts_with("before|"));
  return out.substr(7);
}

void expect_json(std::string_view text) {
  simdjson::dom::parser parser;
  EXPECT_EQ(parser.parse(std::string(text)).error(), simdjson::SUCCESS) << text;
}

constexpr std::string_view kUsage =
    R"({"prompt_tokens":11,"completion_tokens":4,"total_tokens":15,)"
    R"("prompt_tokens_details":{"cached_tokens":8}})";
constexpr UsageCounts kCounts{.prompt_tokens = 11, .cached_tokens = 8, .completion_tokens = 4};

TokenLogprob logprob(std::string token, std::string bytes, float value,
                     std::vector<TokenLogprob> top = {}) {
  return {std::move(token), std::move(bytes), value, std::move(top)};
}

// ---- streamed chat ----

TEST(WriteChatStream, EveryKindOfChunk) {
  const ChatStreamWriter writer(kHead, false);
  EXPECT_EQ(written([&](std::string& out) { writer.role(out, 0); }),
            chunk(R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
                  R"("finish_reason":null})"));
  EXPECT_EQ(written([&](std::string& out) { writer.content(out, 3, "a\"b"); }),
            chunk(R"({"index":3,"delta":{"content":"a\"b"},"logprobs":null,)"
                  R"("finish_reason":null})"));
  EXPECT_EQ(written([&](std::string& out) { writer.reasoning(out, 1, "hm"); }),
            chunk(R"({"index":1,"delta":{"reasoning_content":"hm"},"logprobs":null,)"
                  R"("finish_reason":null})"));
  EXPECT_EQ(written([&](std::string& out) { writer.tool_call(out, 0, 2, "c1", "f", ""); }),
            chunk(R"({"index":0,"delta":{"tool_calls":[{"index":2,"id":"c1","type":"function",)"
                  R"("function":{"name":"f","arguments":""}}]},"logprobs":null,)"
                  R"("finish_reason":null})"));
  EXPECT_EQ(written([&](std::string& out) { writer.tool_call(out, 0, 2, "", "", "{\"a"); }),
            chunk(R"({"index":0,"delta":{"tool_calls":[{"index":2,)"
                  R"("function":{"arguments":"{\"a"}}]},"logprobs":null,"finish_reason":null})"));
  EXPECT_EQ(written([&](std::string& out) { writer.finish(out, 0, "tool_calls"); }),
            chunk(R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"})"));
}

TEST(WriteChatStream, WithUsageEveryChunkSaysNullAndTheLastTheNumbers) {
  const ChatStreamWriter writer(kHead, true);
  constexpr std::string_view kNull = "],\"usage\":null}\n\n";
  EXPECT_EQ(
      written([&](std::string& out) { writer.content(out, 0, "x"); }),
      chunk(R"({"index":0,"delta":{"content":"x"},"logprobs":null,"finish_reason":null})", kNull));
  EXPECT_EQ(written([&](std::string& out) { writer.finish(out, 0, "stop"); }),
            chunk(R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"})", kNull));
  std::string tail = "],\"usage\":";
  tail += kUsage;
  tail += "}\n\n";
  EXPECT_EQ(written([&](std::string& out) { writer.usage(out, kCounts); }), chunk("", tail));
}

TEST(WriteChatStream, LogprobsAndTokenIds) {
  const ChatStreamWriter writer(kHead, false);
  const std::vector<TokenLogprob> logprobs = {
      logprob("é", "\xC3\xA9", -0.5F,
              {logprob("é", "\xC3\xA9", -0.5F),
               logprob("\xEF\xBF\xBD", "\xC3", -std::numeric_limits<float>::infinity())})};
  const std::vector<Token> ids = {7, 49151};
  EXPECT_EQ(
      written([&](std::string& out) { writer.content(out, 0, "é", &logprobs, &ids); }),
      chunk(R"({"index":0,"delta":{"content":"é"},"logprobs":{"content":[{"token":"é",)"
            R"("logprob":-0.5,"bytes":[195,169],"top_logprobs":[)"
            R"({"token":"é","logprob":-0.5,"bytes":[195,169]},)"
            "{\"token\":\"\xEF\xBF\xBD\",\"logprob\":-9999.0,\"bytes\":[195]}]}],\"refusal\":null},"
            R"("finish_reason":null,"token_ids":[7,49151]})"));
  const std::vector<Token> prompt = {1, 2};
  EXPECT_EQ(written([&](std::string& out) { writer.role(out, 0, &prompt); }),
            chunk(R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,)"
                  R"("finish_reason":null}],"prompt_token_ids":[1,2)"));
  const ChatStreamWriter with_usage(kHead, true);
  EXPECT_THAT(written([&](std::string& out) { with_usage.role(out, 0, &prompt); }),
              testing::EndsWith("}],\"prompt_token_ids\":[1,2],\"usage\":null}\n\n"));
}

TEST(WriteChatStream, WhatIsNoChunk) {
  EXPECT_EQ(written(ChatStreamWriter::done), "data: [DONE]\n\n");
  EXPECT_EQ(written(ChatStreamWriter::heartbeat), ": heartbeat\n\n");
  const Error error{Code::kUnavailable, "no \"worker\"", {}};
  EXPECT_EQ(written([&](std::string& out) { ChatStreamWriter::error(out, error); }),
            "data: " + error_body(error) + "\n\n");
}

/// An event must stay one event whatever the model writes: no raw line break inside, valid JSON.
void expect_one_event(const std::string& event) {
  ASSERT_TRUE(event.starts_with("data: ") && event.ends_with("\n\n")) << event;
  const std::string_view data = std::string_view(event).substr(6, event.size() - 8);
  EXPECT_EQ(data.find_first_of("\r\n"), std::string_view::npos) << event;
  expect_json(data);
}

TEST(WriteChatStream, AnyTextStaysOneEvent) {
  std::mt19937 random(31);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::size_t i = random() % 20; i > 0; --i) text += static_cast<char>(random());
    const AnswerHead head{text, 0, text};
    const std::vector<TokenLogprob> logprobs = {
        logprob(text, text, std::bit_cast<float>(static_cast<std::uint32_t>(random())),
                {logprob(text, text, std::nanf("")),
                 logprob("+", "+", std::numeric_limits<float>::infinity())})};
    const ChatStreamWriter chat(head, round % 2 == 0);
    const CompletionStreamWriter completion(head, round % 2 == 0);
    expect_one_event(written([&](auto& out) { chat.content(out, 0, text, &logprobs); }));
    expect_one_event(written([&](auto& out) { chat.reasoning(out, 0, text); }));
    expect_one_event(written([&](auto& out) { chat.tool_call(out, 0, 0, text, text, text); }));
    expect_one_event(written([&](auto& out) { chat.finish(out, 0, text); }));
    expect_one_event(written([&](auto& out) { chat.usage(out, kCounts); }));
    expect_one_event(
        written([&](auto& out) { ChatStreamWriter::error(out, {Code::kInternal, text, text}); }));
    expect_one_event(written([&](auto& out) { completion.text(out, 0, text, &logprobs); }));
    expect_one_event(written([&](auto& out) { completion.finish(out, 0, text); }));
    expect_one_event(written([&](auto& out) { completion.usage(out, kCounts); }));
  }
}

// ---- whole chat ----

TEST(WriteChat, Answer) {
  ChatChoice text{.index = 0, .content = "hi", .finish_reason = "stop"};
  text.logprobs.emplace({logprob("hi", "hi", -0.25F)});
  text.token_ids = {5};
  ChatChoice tools{.index = 1, .reasoning_content = "hm", .finish_reason = "tool_calls"};
  tools.tool_calls = {{"c1", "f", R"({"a":1})"}, {"c2", "g", "{}"}};
  const std::vector<Token> prompt = {1, 2};
  std::string expected =
      R"({"id":"chatcmpl-1","object":"chat.completion","created":1700000000,)"
      R"("model":"demo \"q4\"","choices":[{"index":0,"message":{"role":"assistant",)"
      R"("content":"hi","refusal":null},"logprobs":{"content":[{"token":"hi","logprob":-0.25,)"
      R"("bytes":[104,105],"top_logprobs":[]}],"refusal":null},"finish_reason":"stop",)"
      R"("token_ids":[5]},{"index":1,"message":{"role":"assistant","content":null,)"
      R"("refusal":null,"reasoning_content":"hm","tool_calls":[{"id":"c1","type":"function",)"
      R"("function":{"name":"f","arguments":"{\"a\":1}"}},{"id":"c2","type":"function",)"
      R"("function":{"name":"g","arguments":"{}"}}]},"logprobs":null,)"
      R"("finish_reason":"tool_calls"}],"usage":)";
  expected += kUsage;
  expected += R"(,"prompt_token_ids":[1,2]})";
  EXPECT_EQ(chat_answer(kHead, {text, tools}, kCounts, &prompt), expected);
}

TEST(WriteChat, AnEmptyAnswerIsAnEmptyString) {
  EXPECT_THAT(chat_answer(kHead, {{.finish_reason = "length"}}, {}),
              testing::HasSubstr(R"("content":"","refusal":null})"));
}

// ---- completions ----

std::vector<TokenLogprob> completion_logprobs() {
  return {logprob("Hé", "H\xC3\xA9", std::nanf("")),
          logprob(" a", " a", -1.5F, {logprob(" a", " a", -1.5F), logprob(" b", " b", -2.0F)}),
          logprob("\xEF\xBF\xBD", "\xE6\x97", -3.0F,
                  {logprob("\xEF\xBF\xBD", "\xE6\x97", -3.0F),
                   logprob("\xEF\xBF\xBD", "\xE6", -4.0F), logprob("x", "x", -5.0F)}),
          logprob("\xEF\xBF\xBD", "\xA5", -0.5F), logprob("!", "!", -0.125F)};
}

// Offsets count characters; the two halves of one character stand at its start and behind it.
constexpr std::string_view kCompletionLogprobs =
    "{\"tokens\":[\"Hé\",\" a\",\"\xEF\xBF\xBD\",\"\xEF\xBF\xBD\",\"!\"],"
    "\"token_logprobs\":[null,-1.5,-3,-0.5,-0.125],"
    "\"top_logprobs\":[null,{\" a\":-1.5,\" b\":-2},{\"\xEF\xBF\xBD\":-3,\"x\":-5},{},{}],"
    "\"text_offset\":[10,12,14,15,15]}";

TEST(WriteCompletionStream, EveryKindOfChunk) {
  const CompletionStreamWriter writer(kHead, false);
  EXPECT_EQ(written([&](auto& out) { writer.text(out, 1, "a\n"); }),
            completion_chunk(R"({"index":1,"text":"a\n","logprobs":null,"finish_reason":null})"));
  EXPECT_EQ(written([&](auto& out) { writer.finish(out, 0, "length"); }),
            completion_chunk(R"({"index":0,"text":"","logprobs":null,"finish_reason":"length"})"));
  const auto logprobs = completion_logprobs();
  const std::vector<Token> ids = {4};
  const std::vector<Token> prompt = {1, 2};
  std::string choice = R"({"index":0,"text":"t","logprobs":)";
  choice += kCompletionLogprobs;
  choice += R"(,"finish_reason":null,"token_ids":[4],"prompt_token_ids":[1,2]})";
  EXPECT_EQ(written([&](auto& out) { writer.text(out, 0, "t", &logprobs, 10, &ids, &prompt); }),
            completion_chunk(choice));
}

TEST(WriteCompletionStream, Usage) {
  const CompletionStreamWriter writer(kHead, true);
  EXPECT_EQ(written([&](auto& out) { writer.text(out, 0, "a"); }),
            completion_chunk(R"({"index":0,"text":"a","logprobs":null,"finish_reason":null})",
                             "],\"usage\":null}\n\n"));
  std::string tail = "],\"usage\":";
  tail += kUsage;
  tail += "}\n\n";
  EXPECT_EQ(written([&](auto& out) { writer.usage(out, kCounts); }), completion_chunk("", tail));
}

TEST(WriteCompletion, Answer) {
  CompletionChoice first{.index = 0, .text = "ab", .finish_reason = "stop"};
  first.logprobs.emplace({logprob("a", "a", -1.0F), logprob("b", "b", -2.0F)});
  CompletionChoice second{.index = 1, .text = "c", .finish_reason = "length"};
  second.token_ids = {9};
  const std::vector<Token> prompt = {1};
  second.prompt_token_ids = &prompt;
  std::string expected =
      R"({"id":"chatcmpl-1","object":"text_completion","created":1700000000,)"
      R"("model":"demo \"q4\"","choices":[{"index":0,"text":"ab","logprobs":{"tokens":["a","b"],)"
      R"("token_logprobs":[-1,-2],"top_logprobs":null,"text_offset":[0,1]},)"
      R"("finish_reason":"stop"},{"index":1,"text":"c","logprobs":null,"finish_reason":"length",)"
      R"("token_ids":[9],"prompt_token_ids":[1]}],"usage":)";
  expected += kUsage;
  expected += '}';
  EXPECT_EQ(completion_answer(kHead, {first, second}, kCounts), expected);
}

// ---- the rest ----

TEST(WriteError, HasAllFourFields) {
  EXPECT_EQ(error_body({Code::kInvalidArgument, "n: no \"x\"", "n"}),
            R"({"error":{"message":"n: no \"x\"","type":"invalid_request_error","param":"n",)"
            R"("code":"invalid_value"}})");
  EXPECT_EQ(error_body({Code::kInternal, "m", {}}),
            R"({"error":{"message":"m","type":"server_error","param":null,)"
            R"("code":"internal_error"}})");
}

TEST(WriteEmbedding, FloatsAndBase64) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(embedding_answer("m", {{0.1F, -2, 1e-10F}, {std::nanf(""), inf}}, false, 7),
            R"({"object":"list","data":[{"object":"embedding","index":0,)"
            R"("embedding":[0.1,-2,1e-10]},{"object":"embedding","index":1,)"
            R"("embedding":[null,null]}],"model":"m",)"
            R"("usage":{"prompt_tokens":7,"total_tokens":7}})");
  EXPECT_EQ(embedding_answer("m", {{1.0F, -2.5F}}, true, 1),
            R"({"object":"list","data":[{"object":"embedding","index":0,)"
            R"("embedding":"AACAPwAAIMA="}],"model":"m",)"
            R"("usage":{"prompt_tokens":1,"total_tokens":1}})");
}

TEST(WriteModels, ListAndCard) {
  EXPECT_EQ(
      model_body({"m", 5, 4096}),
      R"({"id":"m","object":"model","created":5,"owned_by":"penstock","max_model_len":4096})");
  EXPECT_EQ(model_list({}), R"({"object":"list","data":[]})");
  EXPECT_EQ(model_list({{"a", 1, 0}, {"b", 2, 0}}),
            R"({"object":"list","data":[)"
            R"({"id":"a","object":"model","created":1,"owned_by":"penstock"},)"
            R"({"id":"b","object":"model","created":2,"owned_by":"penstock"}]})");
}

}  // namespace
}  // namespace penstock::api
