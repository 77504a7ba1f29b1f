// Requests that must be understood.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "api/openai.h"
#include "api/padded_body.h"

namespace penstock::api {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

ChatRequest chat(std::string_view text) {
  const PaddedBody body(text);
  auto request = parse_chat_request(body.view());
  EXPECT_TRUE(request.has_value()) << text << '\n' << request.error().message;
  return request.value_or(ChatRequest{});
}

/// A chat with one short message and these further fields.
ChatRequest chat_with(std::string_view fields) {
  std::string body = R"({"model":"m","messages":[{"role":"user","content":"hi"}],)";
  body += fields;
  body += '}';
  return chat(body);
}

ChatMessage message(std::string_view json) {
  std::string body = R"({"model":"m","messages":[)";
  body += json;
  body += "]}";
  const ChatRequest request = chat(body);
  return request.messages.empty() ? ChatMessage{} : request.messages[0];
}

CompletionRequest completion(std::string_view text) {
  const PaddedBody body(text);
  auto request = parse_completion_request(body.view());
  EXPECT_TRUE(request.has_value()) << text << '\n' << request.error().message;
  return request.value_or(CompletionRequest{});
}

EmbeddingRequest embedding(std::string_view text) {
  const PaddedBody body(text);
  auto request = parse_embedding_request(body.view());
  EXPECT_TRUE(request.has_value()) << text << '\n' << request.error().message;
  return request.value_or(EmbeddingRequest{});
}

auto text_of(const std::string& text) { return testing::VariantWith<std::string>(text); }
auto tokens_of(const std::vector<Token>& tokens) {
  return testing::VariantWith<std::vector<Token>>(tokens);
}

// ---- fields ----

TEST(ParseChat, LeavesDefaultsAlone) {
  const ChatRequest request = chat(R"({"model":"m","messages":[{"role":"user","content":"hi"}]})");
  ChatRequest expected;
  expected.model = "m";
  expected.messages.push_back({.role = "user", .content = "hi"});
  EXPECT_EQ(request, expected);
}

TEST(ParseChat, TakesEveryGenerationField) {
  const ChatRequest request = chat_with(
      R"("stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},"n":3,
      "max_tokens":100,"min_tokens":5,"temperature":0.5,"top_p":0.25,"min_p":0.125,"top_k":40,
      "frequency_penalty":-1.5,"presence_penalty":1.5,"repetition_penalty":1.25,"seed":42,
      "stop":["a","b\n"],"stop_token_ids":[9,2,9],"ignore_eos":true,
      "logit_bias":{"30":-100,"7":0.5},"grammar":"root ::= [0-9]","cache_salt":"salt",
      "priority":-3,"user":"u","return_token_ids":true,"logprobs":true,"top_logprobs":2)");
  ChatRequest expected;
  expected.model = "m";
  expected.stream = true;
  expected.include_usage = true;
  expected.n = 3;
  expected.max_tokens = 100;
  expected.min_tokens = 5;
  expected.temperature = 0.5F;
  expected.top_p = 0.25F;
  expected.min_p = 0.125F;
  expected.top_k = 40;
  expected.frequency_penalty = -1.5F;
  expected.presence_penalty = 1.5F;
  expected.repetition_penalty = 1.25F;
  expected.seed = 42;
  expected.stop = {"a", "b\n"};
  expected.stop_token_ids = {2, 9};
  expected.ignore_eos = true;
  expected.logit_bias = {{7, 0.5F}, {30, -100.0F}};
  expected.top_logprobs = 2;
  expected.grammar = "root ::= [0-9]";
  expected.cache_salt = "salt";
  expected.priority = -3;
  expected.user = "u";
  expected.return_token_ids = true;
  expected.messages.push_back({.role = "user", .content = "hi"});
  EXPECT_EQ(request, expected);
}

TEST(ParseChat, TakesRangesToTheirEnds) {
  EXPECT_EQ(chat_with(R"("temperature":0)").temperature, 0.0F);
  EXPECT_EQ(chat_with(R"("temperature":2.0)").temperature, 2.0F);
  EXPECT_EQ(chat_with(R"("top_p":1)").top_p, 1.0F);
  EXPECT_EQ(chat_with(R"("top_k":-1)").top_k, -1);
  EXPECT_EQ(chat_with(R"("n":128)").n, 128U);
  EXPECT_EQ(chat_with(R"("n":2)").n, 2U);
  EXPECT_EQ(chat_with(R"("max_tokens":2147483647)").max_tokens, 2147483647U);
  EXPECT_EQ(chat_with(R"("stop_token_ids":[2147483647,0])").stop_token_ids,
            (std::vector<Token>{0, 2147483647}));
  EXPECT_EQ(chat_with(R"("logprobs":true)").top_logprobs, 0U);
  EXPECT_EQ(chat_with(R"("logprobs":false)").top_logprobs, std::nullopt);
}

TEST(ParseChat, AnIntegerMayBeWrittenWithAnExponentOrAnEmptyFraction) {
  EXPECT_EQ(chat_with(R"("max_tokens":100.0)").max_tokens, 100U);
  EXPECT_EQ(chat_with(R"("max_tokens":1e2)").max_tokens, 100U);
}

TEST(ParseChat, FoldsSeeds) {
  EXPECT_EQ(chat_with(R"("seed":0)").seed, 0U);
  EXPECT_EQ(chat_with(R"("seed":4294967295)").seed, 4294967295U);
  EXPECT_EQ(chat_with(R"("seed":4294967296)").seed, 1U);
  EXPECT_EQ(chat_with(R"("seed":18446744073709551615)").seed, 0U);
  EXPECT_EQ(chat_with(R"("seed":-9223372036854775808)").seed, 0x80000000U);
  EXPECT_NE(chat_with(R"("seed":-5)").seed, chat_with(R"("seed":-6)").seed);
  // Above 2^53 a double would have lost the last bit.
  EXPECT_NE(chat_with(R"("seed":9007199254740993)").seed,
            chat_with(R"("seed":9007199254740992)").seed);
}

TEST(ParseChat, TheNewTokenLimitWins) {
  EXPECT_EQ(chat_with(R"("max_tokens":5,"max_completion_tokens":7)").max_tokens, 7U);
  EXPECT_EQ(chat_with(R"("max_completion_tokens":7,"max_tokens":5)").max_tokens, 7U);
}

TEST(ParseChat, StopMayBeAStringOrNameTokens) {
  EXPECT_THAT(chat_with(R"("stop":"x")").stop, ElementsAre("x"));
  EXPECT_THAT(chat_with(R"("stop":[])").stop, IsEmpty());
  const ChatRequest mixed = chat_with(R"("stop":["x",8,"y"],"stop_token_ids":[3,8])");
  EXPECT_THAT(mixed.stop, ElementsAre("x", "y"));
  EXPECT_THAT(mixed.stop_token_ids, ElementsAre(3, 8));
}

TEST(ParseChat, NullIsAbsentEverywhere) {
  const ChatRequest absent = chat_with(R"("stream":true)");
  const ChatRequest null = chat_with(
      R"("stream":true,"stream_options":null,"n":null,"max_tokens":null,"min_tokens":null,
      "temperature":null,"top_p":null,"min_p":null,"top_k":null,"frequency_penalty":null,
      "presence_penalty":null,"repetition_penalty":null,"seed":null,"stop":null,
      "stop_token_ids":null,"ignore_eos":null,"logit_bias":null,"grammar":null,"cache_salt":null,
      "priority":null,"user":null,"return_token_ids":null,"logprobs":null,"top_logprobs":null,
      "max_completion_tokens":null,"tools":null,"tool_choice":null,"parallel_tool_calls":null,
      "response_format":null,"chat_template_kwargs":null,"reasoning_effort":null,
      "add_generation_prompt":null,"continue_final_message":null,"modalities":null,"audio":null,
      "web_search_options":null,"functions":null,"function_call":null,"metadata":null,
      "store":null)");
  EXPECT_EQ(null, absent);
  EXPECT_EQ(message(R"({"role":"user","content":"x","name":null,"tool_calls":null,
                        "tool_call_id":null,"function_call":null,"audio":null,"refusal":null,
                        "reasoning_content":null})"),
            message(R"({"role":"user","content":"x"})"));
}

TEST(ParseChat, NotesUnknownFieldsButNotTheOnesThatChangeNothing) {
  const ChatRequest request = chat_with(
      R"("metadata":{"a":"b"},"store":true,"service_tier":"auto","prediction":{"type":"content"},
      "verbosity":"low","safety_identifier":"x","prompt_cache_key":"k","frobnicate":{"deep":[1]},
      "best_effort":"{}")");
  EXPECT_THAT(request.unknown_fields, ElementsAre("frobnicate", "best_effort"));

  std::string many;
  for (int i = 0; i < 40; ++i) {
    if (i > 0) many += ',';
    many += "\"u";
    many += std::to_string(i);
    many += std::string(200, 'x');
    many += "\":0";
  }
  const auto unknown = chat_with(many).unknown_fields;
  EXPECT_EQ(unknown.size(), 16U);
  EXPECT_LE(unknown[0].size(), 60U);
}

// E8: rivals scan the raw bytes for keys.
TEST(ParseChat, E8_KeysInsideStringsAreText) {
  const std::string trap =
      R"(\",\"model\":\"evil\",\"user\":\"evil\",\"stream\":true,{\"messages\":[]}],\\)";
  std::string body = R"({"messages":[{"content":")";
  body += trap;
  body += R"(","role":"user"}],"metadata":{"model":"evil","stream":true,"user":"evil"},)";
  body += R"("chat_template_kwargs":{"model":"evil"},"user":"\"model\":\"evil\"","model":"good"})";
  const ChatRequest request = chat(body);
  EXPECT_EQ(request.model, "good");
  EXPECT_EQ(request.user, "\"model\":\"evil\"");
  EXPECT_FALSE(request.stream);
  EXPECT_EQ(request.messages.size(), 1U);
  EXPECT_EQ(request.messages[0].content,
            "\",\"model\":\"evil\",\"user\":\"evil\",\"stream\":true,{\"messages\":[]}],\\");
}

TEST(ParseChat, AnEscapedKeyIsTheKey) { EXPECT_EQ(chat_with(R"("\u0075s\u0065r":"u")").user, "u"); }

// ---- messages ----

TEST(ParseMessage, TakesEveryRole) {
  for (const char* role : {"system", "developer", "user", "assistant"}) {
    std::string json = R"({"content":"x","role":")";
    json += role;
    json += "\"}";
    EXPECT_EQ(message(json).role, role);
  }
  const ChatMessage tool = message(R"({"role":"tool","tool_call_id":"c1","content":"42"})");
  EXPECT_EQ(tool.tool_call_id, "c1");
  EXPECT_EQ(tool.content, "42");
}

TEST(ParseMessage, JoinsTextParts) {
  const ChatMessage parts = message(
      R"({"role":"user","name":"bob","content":[{"type":"text","text":"a"},
      {"text":"","type":"text"},
      {"type":"text","text":"\"c\"","cache_control":{"type":"ephemeral"}}]})");
  EXPECT_EQ(parts.content, "a\n\n\"c\"");
  EXPECT_EQ(parts.name, "bob");
  EXPECT_EQ(
      message(R"({"role":"assistant","content":[{"type":"refusal","refusal":"no"}]})").content,
      "no");
}

TEST(ParseMessage, TakesToolCallsWithoutContent) {
  const std::string_view call =
      R"("tool_calls":[{"id":"c1","type":"function",
      "function":{"name":"f","arguments":"{\"a\":1}"}},
      {"function":{"arguments":{ "b" : [1, 2.50] },"name":"g.h-1"},"type":"function","id":"c2"}]})";
  for (const std::string_view content :
       {R"({"role":"assistant",)", R"({"role":"assistant","content":null,)"}) {
    std::string json(content);
    json += call;
    const ChatMessage parsed = message(json);
    EXPECT_EQ(parsed.content, "");
    ASSERT_EQ(parsed.tool_calls.size(), 2U);
    EXPECT_EQ(parsed.tool_calls[0], (ToolCall{"c1", "f", R"({"a":1})"}));
    EXPECT_EQ(parsed.tool_calls[1], (ToolCall{"c2", "g.h-1", R"({ "b" : [1, 2.50] })"}));
  }
}

TEST(ParseMessage, KeepsReasoning) {
  EXPECT_EQ(
      message(R"({"role":"assistant","content":"x","reasoning_content":"why"})").reasoning_content,
      "why");
}

// What the official Python client sends back when a program appends an answer to its history.
TEST(ParseMessage, TakesAnAnswerAsTheSdkDumpsIt) {
  const ChatMessage parsed = message(
      R"({"content":"hi","refusal":null,"role":"assistant","annotations":[],"audio":null,
      "function_call":null,"tool_calls":null})");
  EXPECT_EQ(parsed.content, "hi");
}

// ---- tools and formats ----

constexpr std::string_view kTool =
    R"({"type":"function","function":{"name":"get_weather.v2-x","description":"d",
    "parameters":{"type":"object", "properties":{"n":{"const":9007199254740993}}},"strict":true}})";

TEST(ParseTools, KeepsTheSchemaAsItWasWritten) {
  std::string fields = "\"tools\":[";
  fields += kTool;
  fields += R"(,{"type":"function","function":{"name":"plain","parameters":null}}])";
  const ChatRequest request = chat_with(fields);
  ASSERT_EQ(request.tools.size(), 2U);
  EXPECT_EQ(request.tools[0],
            (Tool{"get_weather.v2-x", "d",
                  R"({"type":"object", "properties":{"n":{"const":9007199254740993}}})"}));
  EXPECT_EQ(request.tools[1], (Tool{"plain", "", ""}));
  EXPECT_EQ(request.tool_choice, ToolChoice{});
  EXPECT_TRUE(request.parallel_tool_calls);
}

TEST(ParseTools, TakesEveryChoiceInAnyOrder) {
  using Mode = ToolChoice::Mode;
  const std::vector<std::pair<std::string, ToolChoice>> choices = {
      {R"("auto")", {Mode::kAuto, ""}},
      {R"("none")", {Mode::kNone, ""}},
      {R"("required")", {Mode::kRequired, ""}},
      {R"({"function":{"name":"get_weather.v2-x"},"type":"function"})",
       {Mode::kFunction, "get_weather.v2-x"}},
  };
  for (const auto& [json, choice] : choices) {
    std::string before = "\"tool_choice\":";
    before += json;
    before += ",\"parallel_tool_calls\":false,\"tools\":[";
    before += kTool;
    before += ']';
    EXPECT_EQ(chat_with(before).tool_choice, choice) << json;
    EXPECT_FALSE(chat_with(before).parallel_tool_calls);
  }
  EXPECT_EQ(chat_with(R"("tool_choice":"none")").tool_choice.mode, Mode::kNone);
  EXPECT_EQ(chat_with(R"("tool_choice":"auto","tools":[])").tool_choice.mode, Mode::kAuto);
}

TEST(ParseResponseFormat, TakesEveryKind) {
  using Kind = ResponseFormat::Kind;
  EXPECT_EQ(chat_with(R"("response_format":{"type":"text"})").response_format.kind, Kind::kText);
  EXPECT_EQ(chat_with(R"("response_format":{"type":"json_object"})").response_format,
            (ResponseFormat{Kind::kJsonObject, ""}));
  EXPECT_EQ(chat_with(R"("response_format":{"json_schema":{"strict":true,"schema":{"a": 1},
                         "name":"n","description":"d"},"type":"json_schema"})")
                .response_format,
            (ResponseFormat{Kind::kJsonSchema, R"({"a": 1})"}));
  EXPECT_EQ(
      chat_with(R"("response_format":{"type":"json_object","schema":{"a":2}})").response_format,
      (ResponseFormat{Kind::kJsonSchema, R"({"a":2})"}));
}

// ---- template ----

TEST(ParseChat, TemplateArguments) {
  EXPECT_THAT(
      chat_with(R"("chat_template_kwargs":{"enable_thinking":false,"x":{"y": [1]},"z":null})")
          .template_kwargs,
      ElementsAre(Pair("enable_thinking", "false"), Pair("x", R"({"y": [1]})"), Pair("z", "null")));
  EXPECT_THAT(chat_with(R"("reasoning_effort":"low")").template_kwargs,
              ElementsAre(Pair("reasoning_effort", "\"low\"")));
  EXPECT_THAT(chat_with(R"("reasoning_effort":"low",
                           "chat_template_kwargs":{"reasoning_effort":"high"})")
                  .template_kwargs,
              ElementsAre(Pair("reasoning_effort", "\"high\"")));
}

TEST(ParseChat, ContinuingAMessage) {
  const std::string_view body =
      R"({"model":"m","messages":[{"role":"assistant","content":"Once"}],
      "continue_final_message":true})";
  EXPECT_TRUE(chat(body).continue_final_message);
  EXPECT_FALSE(chat(body).add_generation_prompt);
  EXPECT_FALSE(chat_with(R"("add_generation_prompt":false)").add_generation_prompt);
  EXPECT_TRUE(chat_with(R"("modalities":["text"])").add_generation_prompt);
}

// ---- completions and embeddings ----

TEST(ParseCompletion, TakesEveryKindOfPrompt) {
  using Tokens = std::vector<Token>;
  EXPECT_THAT(completion(R"({"model":"m","prompt":"a"})").prompts, ElementsAre(text_of("a")));
  EXPECT_THAT(completion(R"({"model":"m","prompt":["a","b"]})").prompts,
              ElementsAre(text_of("a"), text_of("b")));
  EXPECT_THAT(completion(R"({"model":"m","prompt":[1,2]})").prompts,
              ElementsAre(tokens_of(Tokens{1, 2})));
  EXPECT_THAT(completion(R"({"model":"m","prompt":[[1],[2147483647,0]]})").prompts,
              ElementsAre(tokens_of(Tokens{1}), tokens_of(Tokens{2147483647, 0})));
}

TEST(ParseCompletion, TakesItsOwnFields) {
  const CompletionRequest request = completion(
      R"({"model":"m","prompt":"a","echo":true,"logprobs":0,"best_of":2,"n":2,"suffix":"",
      "max_tokens":9,"seed":1,"stop":"\n","messages":[],"store":true,
      "response_format":{"type":"text"}})");
  EXPECT_TRUE(request.echo);
  EXPECT_EQ(request.top_logprobs, 0U);
  EXPECT_EQ(request.n, 2U);
  EXPECT_EQ(request.max_tokens, 9U);
  EXPECT_EQ(request.seed, 1U);
  EXPECT_THAT(request.stop, ElementsAre("\n"));
  EXPECT_THAT(request.unknown_fields, ElementsAre("messages"));
}

TEST(ParseEmbedding, TakesEveryField) {
  const EmbeddingRequest request = embedding(
      R"({"input":["a","b"],"model":"m","encoding_format":"base64","dimensions":384,"user":"u",
      "truncate":true})");
  EXPECT_EQ(request.model, "m");
  EXPECT_THAT(request.inputs, ElementsAre(text_of("a"), text_of("b")));
  EXPECT_TRUE(request.base64);
  EXPECT_EQ(request.dimensions, 384U);
  EXPECT_THAT(request.unknown_fields, ElementsAre("truncate"));
  EXPECT_FALSE(embedding(R"({"input":[1],"model":"m","encoding_format":"float"})").base64);
}

}  // namespace
}  // namespace penstock::api
