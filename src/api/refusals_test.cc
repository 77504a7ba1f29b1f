// Bodies that must be refused: which field is named, and what the client is told.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <set>
#include <string>
#include <vector>

#include "api/openai.h"
#include "api/padded_body.h"

namespace penstock::api {
namespace {

using testing::HasSubstr;

struct Refusal {
  std::string_view json;  // what is wrong, put into an otherwise good request
  std::string_view param;
  std::string_view says;
  Code code = Code::kInvalidArgument;
};

const std::string kLongStop = R"("stop":["a",")" + std::string(1025, 'b') + R"("])";
const std::string kDeepArguments =
    R"([{"id":"c","type":"function","function":{"name":"f","arguments":")" + std::string(65, '[') +
    std::string(65, ']') + R"("}}])";

enum class Api { kChat, kCompletion, kEmbedding };

template <class Request>
Error error_of(const Result<Request>& result) {
  return result ? Error{Code::kInternal, "accepted", {}} : result.error();
}

Error parse(Api api, std::string_view text) {
  const PaddedBody body(text);
  switch (api) {
    case Api::kChat: return error_of(parse_chat_request(body.view()));
    case Api::kCompletion: return error_of(parse_completion_request(body.view()));
    case Api::kEmbedding: return error_of(parse_embedding_request(body.view()));
  }
  return {};
}

/// `before` + row + `after` is the whole body.
void expect_refused(Api api, std::string_view before, std::string_view after,
                    const std::vector<Refusal>& rows) {
  for (const Refusal& row : rows) {
    std::string body(before);
    body += row.json;
    body += after;
    const Error error = parse(api, body);
    EXPECT_EQ(error.code, row.code) << body << '\n' << error.message;
    EXPECT_EQ(error.param, row.param) << body << '\n' << error.message;
    EXPECT_THAT(error.message, HasSubstr(std::string(row.says))) << body;
    EXPECT_TRUE(simdjson::validate_utf8(error.message)) << body;
    EXPECT_LT(error.message.size(), 300U) << body;
  }
}

constexpr std::string_view kChat = R"({"model":"m","messages":[{"role":"user","content":"hi"}],)";

TEST(Refusals, FieldsThatChatAndCompletionsShare) {
  const std::vector<Refusal> rows = {
      {R"("temperature":"hot")", "temperature",
       "temperature: expected a number between 0 and 2, got \"hot\""},
      {R"("temperature":-0.1)", "temperature", "between 0 and 2, got -0.1"},
      {R"("temperature":2.01)", "temperature", "between 0 and 2, got 2.01"},
      {R"("temperature":1e400)", "temperature", "between 0 and 2, got 1e400"},
      {R"("temperature":true)", "temperature", "between 0 and 2, got true"},
      {R"("temperature":[1])", "temperature", "between 0 and 2, got an array"},
      {R"("temperature":{})", "temperature", "between 0 and 2, got an object"},
      {R"("temperature":NaN)", "temperature", "not valid JSON: expected a value, got NaN"},
      {R"("temperature":Infinity)", "temperature", "got Infinity"},
      {R"("temperature":01)", "temperature", "expected a value, got 01"},
      {R"("top_p":0)", "top_p", "expected a number above 0 and up to 1, got 0"},
      {R"("top_p":1e-60)", "top_p", "above 0"},
      {R"("top_p":1.5)", "top_p", "up to 1, got 1.5"},
      {R"("top_p":"1")", "top_p", "got \"1\""},
      {R"("min_p":-1)", "min_p", "between 0 and 1"},
      {R"("min_p":1.1)", "min_p", "between 0 and 1"},
      {R"("top_k":-2)", "top_k", "expected an integer between -1 and 2147483647, got -2"},
      {R"("top_k":1.5)", "top_k", "an integer"},
      {R"("top_k":4294967296)", "top_k", "an integer"},
      {R"("frequency_penalty":-2.5)", "frequency_penalty", "between -2 and 2"},
      {R"("frequency_penalty":"0")", "frequency_penalty", "between -2 and 2"},
      {R"("presence_penalty":3)", "presence_penalty", "between -2 and 2"},
      {R"("repetition_penalty":0)", "repetition_penalty", "above 0 and up to 2"},
      {R"("repetition_penalty":2.1)", "repetition_penalty", "above 0 and up to 2"},
      {R"("repetition_penalty":1.1,"repeat_penalty":1.2)", "repeat_penalty", "the same"},
      {R"("repeat_penalty":1.1,"repetition_penalty":1.2)", "repetition_penalty", "the same"},
      {R"("seed":"1")", "seed", "an integer of 64 bits, got \"1\""},
      {R"("seed":1.5)", "seed", "an integer of 64 bits"},
      {R"("seed":18446744073709551616)", "seed", "an integer of 64 bits"},
      {R"("seed":-9223372036854775809)", "seed", "an integer of 64 bits"},
      {R"("n":0)", "n", "expected an integer between 1 and 128, got 0"},
      {R"("n":129)", "n", "between 1 and 128, got 129"},
      {R"("n":-1)", "n", "between 1 and 128"},
      {R"("n":"2")", "n", "between 1 and 128"},
      {R"("n":99999999999999999999)", "n", "between 1 and 128"},
      {R"("n":1e300)", "n", "between 1 and 128"},
      {R"("max_tokens":0)", "max_tokens", "between 1 and 2147483647, got 0"},
      {R"("max_tokens":-1)", "max_tokens", "got -1"},
      {R"("max_tokens":"many")", "max_tokens", "got \"many\""},
      {R"("max_tokens":10.5)", "max_tokens", "got 10.5"},
      {R"("max_tokens":2147483648)", "max_tokens", "between 1 and 2147483647"},
      {R"("min_tokens":-1)", "min_tokens", "between 0"},
      {R"("min_tokens":11,"max_tokens":10)", "min_tokens", "11 is more than the 10"},
      {R"("stream":"true")", "stream", "expected true or false, got \"true\""},
      {R"("stream":1)", "stream", "expected true or false, got 1"},
      {R"("stream":false,"stream_options":{})", "stream_options",
       "only allowed when stream is true"},
      {R"("stream_options":{"include_usage":true})", "stream_options", "only allowed"},
      {R"("stream":true,"stream_options":true)", "stream_options", "expected an object"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage",
       "expected true or false"},
      {R"("stop":1)", "stop", "expected a string or an array of strings, got a number"},
      {R"("stop":"")", "stop", "must not be empty"},
      {R"("stop":["a",""])", "stop[1]", "must not be empty"},
      {kLongStop, "stop[1]", "1025 bytes long"},
      {R"("stop":[null])", "stop[0]", "expected a string or a token id, got null"},
      {R"("stop":["a",["b"]])", "stop[1]", "expected a string or a token id, got an array"},
      {R"("stop":[-1])", "stop[0]", "an integer between 0"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17",)"
       R"("18","19","20","21","22","23","24","25","26","27","28","29","30","31","32","33"])",
       "stop[32]", "more than 32 entries"},
      {R"("stop_token_ids":7)", "stop_token_ids", "an array of token ids, got a number"},
      {R"("stop_token_ids":["7"])", "stop_token_ids[0]", "expected a token id"},
      {R"("stop_token_ids":[1,-7])", "stop_token_ids[1]", "between 0 and 2147483647, got -7"},
      {R"("stop_token_ids":[2147483648])", "stop_token_ids[0]", "between 0 and 2147483647"},
      {R"("ignore_eos":"no")", "ignore_eos", "expected true or false"},
      {R"("logit_bias":[1])", "logit_bias", "expected an object of token ids"},
      {R"("logit_bias":{"a":1})", "logit_bias.a", "the name must be a token id"},
      {R"("logit_bias":{"":1})", "logit_bias", "the name must be a token id"},
      {R"("logit_bias":{"-5":1})", "logit_bias.-5", "the name must be a token id"},
      {R"("logit_bias":{"2147483648":1})", "logit_bias.2147483648", "the name must be a token id"},
      {R"("logit_bias":{"5":101})", "logit_bias.5", "between -100 and 100, got 101"},
      {R"("logit_bias":{"5":"1"})", "logit_bias.5", "between -100 and 100"},
      {R"("logit_bias":{"5":null})", "logit_bias.5", "between -100 and 100, got null"},
      {R"("logit_bias":{"5":1,"4":1,"5":2})", "logit_bias", "token 5 is given more than once"},
      {R"("grammar":1)", "grammar", "expected a string"},
      {R"("grammar":"")", "grammar", "must not be empty"},
      {R"("cache_salt":{})", "cache_salt", "expected a string"},
      {R"("cache_salt":"")", "cache_salt", "must not be empty"},
      {R"("priority":"high")", "priority", "an integer"},
      {R"("priority":2147483648)", "priority", "an integer"},
      {R"("user":7)", "user", "expected a string, got a number"},
      {R"("return_token_ids":"yes")", "return_token_ids", "expected true or false"},
      {R"("model":"again")", "model", "given more than once"},
      {R"("n":1,"n":1)", "n", "given more than once"},
      {R"("n":null,"n":2)", "n", "given more than once"},
      {R"("n":1,"\u006e":2)", "n", "given more than once"},
      {R"("unheard":{"of":[1,{"x":nil}]})", "unheard.of[1].x", "not valid JSON"},
  };
  expect_refused(Api::kChat, kChat, "}", rows);
  expect_refused(Api::kCompletion, R"({"model":"m","prompt":"hi",)", "}", rows);
}

TEST(Refusals, ChatFields) {
  expect_refused(
      Api::kChat, kChat, "}",
      {
          {R"("max_completion_tokens":0)", "max_completion_tokens", "between 1"},
          {R"("max_completion_tokens":"x")", "max_completion_tokens", "between 1"},
          {R"("max_completion_tokens":5,"max_tokens":9,"min_tokens":6)", "min_tokens",
           "6 is more than the 5"},
          {R"("logprobs":1)", "logprobs", "expected true or false, got 1"},
          {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "between 0 and 20"},
          {R"("logprobs":true,"top_logprobs":-1)", "top_logprobs", "between 0 and 20"},
          {R"("top_logprobs":3)", "top_logprobs", "only allowed when logprobs is true"},
          {R"("top_logprobs":0,"logprobs":false)", "top_logprobs", "only allowed"},
          {R"("parallel_tool_calls":"no")", "parallel_tool_calls", "expected true or false"},
          {R"("reasoning_effort":"extreme")", "reasoning_effort",
           R"(expected "none", "minimal", "low", "medium", "high" or "xhigh", got "extreme")"},
          {R"("reasoning_effort":3)", "reasoning_effort", "got 3"},
          {R"("chat_template_kwargs":[])", "chat_template_kwargs", "expected an object"},
          {R"("chat_template_kwargs":{"a":1,"a":2})", "chat_template_kwargs.a", "more than once"},
          {R"("chat_template_kwargs":{"messages":[]})", "chat_template_kwargs.messages",
           "from the request itself"},
          {R"("chat_template_kwargs":{"a":{"b":tru}})", "chat_template_kwargs.a.b", "not valid"},
          {R"("add_generation_prompt":0)", "add_generation_prompt", "expected true or false"},
          {R"("continue_final_message":"x")", "continue_final_message", "expected true or false"},
          {R"("continue_final_message":true)", "continue_final_message", "must be an assistant's"},
          {R"("continue_final_message":true,"add_generation_prompt":true)", "add_generation_prompt",
           "must be false"},
          {R"("modalities":"text")", "modalities", "expected an array"},
          {R"("modalities":[1])", "modalities[0]", "expected \"text\", got 1"},
          {R"("modalities":["text","audio"])", "modalities[1]", "answers in text only",
           Code::kUnprocessable},
          {R"("audio":{"voice":"x"})", "audio", "answers in text only", Code::kUnprocessable},
          {R"("web_search_options":{})", "web_search_options", "does not search",
           Code::kUnprocessable},
          {R"("functions":[])", "functions", "deprecated, use tools"},
          {R"("function_call":"auto")", "function_call", "deprecated, use tool_choice"},
          {R"("response_format":"json")", "response_format", "expected an object"},
          {R"("response_format":{})", "response_format.type", "missing"},
          {R"("response_format":{"type":"xml"})", "response_format.type",
           R"(expected "text", "json_object" or "json_schema", got "xml")"},
          {R"("response_format":{"type":"json_schema"})", "response_format.json_schema", "missing"},
          {R"("response_format":{"type":"json_schema","json_schema":[]})",
           "response_format.json_schema", "expected an object, got an array"},
          {R"("response_format":{"type":"json_schema","json_schema":{"name":"x"}})",
           "response_format.json_schema.schema", "missing"},
          {R"("response_format":{"type":"json_schema","json_schema":{"schema":{}}})",
           "response_format.json_schema.name", "missing"},
          {R"("response_format":{"type":"json_schema","json_schema":{"name":"","schema":{}}})",
           "response_format.json_schema.name", "must not be empty"},
          {R"("response_format":{"type":"json_schema","json_schema":{"name":"x","schema":"{}"}})",
           "response_format.json_schema.schema", "expected an object, got a string"},
          {R"("response_format":{"type":"json_schema",)"
           R"("json_schema":{"name":"x","schema":{"a":.5}}})",
           "response_format.json_schema.schema.a", "not valid JSON"},
          {R"("response_format":{"type":"json_schema",)"
           R"("json_schema":{"name":"x","schema":{},"strict":1}})",
           "response_format.json_schema.strict", "expected true or false"},
          {R"("response_format":{"type":"text","json_schema":{"name":"x","schema":{}}})",
           "response_format.json_schema", "only allowed with type"},
          {R"("response_format":{"type":"text","schema":{}})", "response_format.schema",
           "only allowed with type"},
          {R"("response_format":{"type":"json_object","type":"text"})", "response_format.type",
           "given more than once"},
          {R"("grammar":"root ::= x","response_format":{"type":"json_object"})", "grammar",
           "cannot be combined"},
      });
}

TEST(Refusals, Messages) {
  expect_refused(
      Api::kChat, R"({"model":"m","messages":[{"role":"system","content":"s"},)", "]}",
      {
          {R"("text")", "messages[1]", "expected an object, got a string"},
          {R"(null)", "messages[1]", "expected an object, got null"},
          {R"({})", "messages[1].role", "missing, expected \"system\""},
          {R"({"content":"x"})", "messages[1].role", "missing"},
          {R"({"role":"robot","content":"x"})", "messages[1].role",
           R"(expected "system", "developer", "user", "assistant" or "tool", got "robot")"},
          {R"({"role":"","content":"x"})", "messages[1].role", "got \"\""},
          {R"({"role":7,"content":"x"})", "messages[1].role", "got 7"},
          {R"({"role":["user"],"content":"x"})", "messages[1].role", "got an array"},
          {R"({"role":"function","name":"f","content":"x"})", "messages[1].role", "use \"tool\""},
          {R"({"role":"user"})", "messages[1].content", "missing, expected a string"},
          {R"({"role":"user","content":null})", "messages[1].content", "missing"},
          {R"({"role":"tool","tool_call_id":"c"})", "messages[1].content", "missing"},
          {R"({"role":"user","content":7})", "messages[1].content",
           "expected a string, null or an array of text parts, got a number"},
          {R"({"role":"user","content":{"text":"x"}})", "messages[1].content", "got an object"},
          {R"({"role":"user","content":[]})", "messages[1].content", "at least one part"},
          {R"({"role":"user","content":["x"]})", "messages[1].content[0]", "expected an object"},
          {R"({"role":"user","content":[{"text":"x"}]})", "messages[1].content[0].type", "missing"},
          {R"({"role":"user","content":[{"type":"text"}]})", "messages[1].content[0].text",
           "missing"},
          {R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":null}]})",
           "messages[1].content[1].text", "missing"},
          {R"({"role":"user","content":[{"type":"text","text":5}]})", "messages[1].content[0].text",
           "expected a string, got a number"},
          {R"({"role":"user","content":[{"type":5,"text":"a"}]})", "messages[1].content[0].type",
           "expected a string"},
          {R"({"role":"user","content":[{"type":"text","text":"a","text":"b"}]})",
           "messages[1].content[0].text", "given more than once"},
          {R"({"role":"user","content":[{"type":"text","text":"a","refusal":"b"}]})",
           "messages[1].content[0].refusal", "has a text already"},
          {R"({"role":"user","content":[{"type":"text","text":"a"},)"
           R"({"type":"image_url","image_url":{"url":"data:x"}}]})",
           "messages[1].content[1].type", "takes text only, got a part of type \"image_url\"",
           Code::kUnprocessable},
          {R"({"role":"user","content":[{"input_audio":{},"type":"input_audio"}]})",
           "messages[1].content[0].type", "takes text only", Code::kUnprocessable},
          {R"({"role":"user","content":[{"type":"file","file":{}}]})",
           "messages[1].content[0].type", "takes text only", Code::kUnprocessable},
          {R"({"role":"user","content":"x","name":1})", "messages[1].name", "expected a string"},
          {R"({"role":"user","content":"x","role":"user"})", "messages[1].role", "more than once"},
          {R"({"role":"user","content":"x","content":"y"})", "messages[1].content",
           "more than once"},
          {R"({"role":"user","content":"x","tool_call_id":"c"})", "messages[1].tool_call_id",
           "only a tool message"},
          {R"({"role":"tool","content":"x"})", "messages[1].tool_call_id", "missing"},
          {R"({"role":"tool","content":"x","tool_call_id":""})", "messages[1].tool_call_id",
           "missing"},
          {R"({"role":"tool","content":"x","tool_call_id":1})", "messages[1].tool_call_id",
           "expected a string"},
          {R"({"role":"assistant"})", "messages[1].content", "needs content or tool_calls"},
          {R"({"role":"assistant","content":null,"tool_calls":[]})", "messages[1].content",
           "needs content or tool_calls"},
          {R"({"role":"assistant","content":"x","reasoning_content":[]})",
           "messages[1].reasoning_content", "expected a string"},
          {R"({"role":"assistant","content":"x","function_call":{"name":"f"}})",
           "messages[1].function_call", "deprecated, use tool_calls"},
          {R"({"role":"assistant","content":"x","audio":{"id":"a"}})", "messages[1].audio",
           "takes text only", Code::kUnprocessable},
          {R"({"role":"user","content":"\ud800"})", "messages[1].content", "surrogate"},
      });
}

TEST(Refusals, ToolCallsOfMessages) {
  expect_refused(
      Api::kChat, R"({"model":"m","messages":[{"role":"assistant","tool_calls":)", "}]}",
      {
          {R"({})", "messages[0].tool_calls", "expected an array of tool calls, got an object"},
          {R"([null])", "messages[0].tool_calls[0]", "expected an object"},
          {R"([{"type":"function","function":{"name":"f","arguments":"{}"}}])",
           "messages[0].tool_calls[0].id", "missing"},
          {R"([{"id":"","type":"function","function":{"name":"f","arguments":"{}"}}])",
           "messages[0].tool_calls[0].id", "must not be empty"},
          {R"([{"id":7,"type":"function","function":{"name":"f","arguments":"{}"}}])",
           "messages[0].tool_calls[0].id", "expected a string"},
          {R"([{"id":"c","function":{"name":"f","arguments":"{}"}}])",
           "messages[0].tool_calls[0].type", "missing, expected \"function\""},
          {R"([{"id":"c","type":"custom","function":{"name":"f","arguments":"{}"}}])",
           "messages[0].tool_calls[0].type", "expected \"function\", got \"custom\""},
          {R"([{"id":"c","type":"function"}])", "messages[0].tool_calls[0].function", "missing"},
          {R"([{"id":"c","type":"function","function":"f"}])", "messages[0].tool_calls[0].function",
           "expected an object"},
          {R"([{"id":"c","type":"function","function":{"arguments":"{}"}}])",
           "messages[0].tool_calls[0].function.name", "missing"},
          {R"([{"id":"c","type":"function","function":{"name":"","arguments":"{}"}}])",
           "messages[0].tool_calls[0].function.name", "must not be empty"},
          {R"([{"id":"c","type":"function","function":{"name":"f"}}])",
           "messages[0].tool_calls[0].function.arguments", "missing"},
          {kDeepArguments, "messages[0].tool_calls[0].function.arguments", "nested deeper than 64"},
          {R"([{"id":"c","type":"function","function":{"name":"f","arguments":[1]}}])",
           "messages[0].tool_calls[0].function.arguments", "expected a string of JSON"},
          {R"([{"id":"c","type":"function","function":{"name":"f","arguments":{"a":01}}}])",
           "messages[0].tool_calls[0].function.arguments.a", "not valid JSON"},
      });
  expect_refused(Api::kChat, R"({"model":"m","messages":[{"role":"user","content":"x",)", "}]}",
                 {{R"("tool_calls":[{"id":"c","type":"function","function":{"name":"f",)"
                   R"("arguments":"{}"}}])",
                   "messages[0].tool_calls", "only an assistant message"}});
}

TEST(Refusals, Tools) {
  const std::string long_name(97, 'a');
  const std::string with_long_name =
      R"([{"type":"function","function":{"name":")" + long_name + R"("}}])";
  expect_refused(
      Api::kChat, R"({"model":"m","messages":[{"role":"user","content":"hi"}],"tools":)", "}",
      {
          {R"({})", "tools", "expected an array of tools"},
          {R"(["f"])", "tools[0]", "expected an object"},
          {R"([{"function":{"name":"f"}}])", "tools[0].type", "missing"},
          {R"([{"type":"custom","custom":{"name":"f"}}])", "tools[0].type",
           "expected \"function\", got \"custom\""},
          {R"([{"type":"function"}])", "tools[0].function", "missing"},
          {R"([{"type":"function","function":"f"}])", "tools[0].function", "expected an object"},
          {R"([{"type":"function","function":{}}])", "tools[0].function.name", "missing"},
          {R"([{"type":"function","function":{"name":""}}])", "tools[0].function.name",
           "1 to 96 letters"},
          {R"([{"type":"function","function":{"name":"a b"}}])", "tools[0].function.name",
           "got \"a b\""},
          {R"([{"type":"function","function":{"name":"é"}}])", "tools[0].function.name",
           "1 to 96 letters"},
          {R"([{"type":"function","function":{"name":7}}])", "tools[0].function.name", "got 7"},
          {with_long_name, "tools[0].function.name", "1 to 96 letters"},
          {R"([{"type":"function","function":{"name":"f","description":{}}}])",
           "tools[0].function.description", "expected a string"},
          {R"([{"type":"function","function":{"name":"f","parameters":"{}"}}])",
           "tools[0].function.parameters", "expected an object, got a string"},
          {R"([{"type":"function","function":{"name":"f","parameters":{"a":[1 2]}}}])",
           "tools[0].function.parameters.a[1]", "not valid JSON"},
          {R"([{"type":"function","function":{"name":"f","strict":"yes"}}])",
           "tools[0].function.strict", "expected true or false"},
          {R"([{"type":"function","function":{"name":"f"}},)"
           R"({"type":"function","function":{"name":"g"}},)"
           R"({"type":"function","function":{"name":"f"}}])",
           "tools[2].function.name", "\"f\" is the name of tools[0] already"},
      });
}

TEST(Refusals, ToolChoice) {
  expect_refused(
      Api::kChat,
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],)"
      R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":)",
      "}",
      {
          {R"("any")", "tool_choice", R"(expected "auto", "none" or "required", got "any")"},
          {R"(1)", "tool_choice", "or an object that names a function, got 1"},
          {R"([])", "tool_choice", "got an array"},
          {R"({})", "tool_choice.type", "missing"},
          {R"({"type":"function"})", "tool_choice.function", "missing"},
          {R"({"type":"allowed_tools","function":{"name":"f"}})", "tool_choice.type",
           "got \"allowed_tools\""},
          {R"({"type":"function","function":"f"})", "tool_choice.function", "expected an object"},
          {R"({"type":"function","function":{}})", "tool_choice.function.name", "missing"},
          {R"({"type":"function","function":{"name":"g"}})", "tool_choice.function.name",
           "no tool is called \"g\""},
          {R"({"type":"function","function":{"name":"a b"}})", "tool_choice.function.name",
           "1 to 96 letters"},
      });
  expect_refused(
      Api::kChat, kChat, "}",
      {{R"("tool_choice":"required")", "tool_choice", "only allowed together with tools"},
       {R"("tool_choice":"required","tools":[])", "tool_choice", "only allowed"},
       {R"("tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice",
        "only allowed together with tools"}});
}

TEST(Refusals, WhatAChatCannotDoWithout) {
  expect_refused(
      Api::kChat, "", "",
      {
          {R"({})", "model", "model: missing, expected the name of a model"},
          {R"({"messages":[{"role":"user","content":"x"}]})", "model", "missing"},
          {R"({"model":null,"messages":[{"role":"user","content":"x"}]})", "model", "missing"},
          {R"({"model":"","messages":[{"role":"user","content":"x"}]})", "model",
           "must not be empty"},
          {R"({"model":5,"messages":[{"role":"user","content":"x"}]})", "model",
           "expected a string"},
          {R"({"model":"m"})", "messages", "missing, expected at least one message"},
          {R"({"model":"m","messages":null})", "messages", "missing"},
          {R"({"model":"m","messages":[]})", "messages", "at least one message"},
          {R"({"model":"m","messages":{}})", "messages", "expected an array of messages"},
          {R"({"model":"m","messages":"hi"})", "messages", "got a string"},
          {R"({"model":"m","messages":[{"role":"user","content":"x"}]}{})", "", "not valid JSON"},
          {R"([])", "", "must be a JSON object, got an array"},
          {"", "", "it is empty"},
      });
}

TEST(Refusals, Completions) {
  expect_refused(
      Api::kCompletion, R"({"model":"m",)", "}",
      {
          {R"("n":1)", "prompt", "missing, expected a string"},
          {R"("prompt":null)", "prompt", "missing"},
          {R"("prompt":"")", "prompt", "must not be empty"},
          {R"("prompt":[])", "prompt", "must not be empty"},
          {R"("prompt":["a",""])", "prompt[1]", "must not be empty"},
          {R"("prompt":[[1],[]])", "prompt[1]", "must not be empty"},
          {R"("prompt":7)", "prompt", "expected a string, an array of strings"},
          {R"("prompt":{})", "prompt", "got an object"},
          {R"("prompt":["a",1])", "prompt[1]", "the same as the entries before it, got a number"},
          {R"("prompt":[1,"a"])", "prompt[1]", "expected a token id between 0 and 2147483647"},
          {R"("prompt":[[1],"a"])", "prompt[1]", "the same as the entries before it"},
          {R"("prompt":[[1],["a"]])", "prompt[1][0]", "expected a token id"},
          {R"("prompt":[null])", "prompt[0]", "got null"},
          {R"("prompt":[1.5])", "prompt[0]", "got 1.5"},
          {R"("prompt":[-1])", "prompt[0]", "got -1"},
          {R"("prompt":[[0,2147483648]])", "prompt[0][1]", "got 2147483648"},
          {R"("prompt":"a","suffix":"b")", "suffix", "does not fill in", Code::kUnprocessable},
          {R"("prompt":"a","suffix":1)", "suffix", "expected a string"},
          {R"("prompt":"a","echo":1)", "echo", "expected true or false"},
          {R"("prompt":"a","best_of":2)", "best_of", "the same as n (1), got 2"},
          {R"("prompt":"a","best_of":2,"n":3)", "best_of", "the same as n (3), got 2"},
          {R"("prompt":"a","best_of":0)", "best_of", "between 1 and 128"},
          {R"("prompt":"a","logprobs":6)", "logprobs", "between 0 and 5, got 6"},
          {R"("prompt":"a","logprobs":true)", "logprobs", "between 0 and 5, got true"},
          {R"("prompt":"a","response_format":{"type":"json_object"})", "response_format",
           "/v1/chat/completions only"},
          {R"("prompt":["a","b","c","d","e","f","g","h","i"],"n":128)", "n",
           "128 choices for each of 9 prompts"},
      });
}

TEST(Refusals, Embeddings) {
  expect_refused(Api::kEmbedding, R"({"model":"m",)", "}",
                 {
                     {R"("user":"u")", "input", "missing"},
                     {R"("input":"")", "input", "must not be empty"},
                     {R"("input":[])", "input", "must not be empty"},
                     {R"("input":[[]])", "input[0]", "must not be empty"},
                     {R"("input":true)", "input", "got a boolean"},
                     {R"("input":["a",null])", "input[1]", "got null"},
                     {R"("input":"a","encoding_format":"hex")", "encoding_format",
                      R"(expected "float" or "base64", got "hex")"},
                     {R"("input":"a","encoding_format":1)", "encoding_format", "got 1"},
                     {R"("input":"a","dimensions":0)", "dimensions", "between 1"},
                     {R"("input":"a","input":"b")", "input", "given more than once"},
                     {R"("input":"a","model":"x")", "model", "given more than once"},
                 });
  expect_refused(Api::kEmbedding, R"({"input":"x")", "}",
                 {{"", "model", "missing"}, {R"(,"model":[])", "model", "expected a string"}});
}

std::string repeated(std::size_t count, std::string_view entry) {
  std::string list;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) list += ',';
    list += entry;
  }
  return list;
}

// E22: what has no limit kills a process.
TEST(Refusals, E22_EveryListHasALimit) {
  const auto chat = [](const std::string& messages, const std::string& rest) {
    std::string body = R"({"model":"m","messages":[)";
    body += messages;
    body += ']';
    body += rest;
    body += '}';
    return parse(Api::kChat, body);
  };
  const std::string_view message = R"({"role":"user","content":""})";
  EXPECT_EQ(chat(repeated(kMessagesMax, message), "").message, "accepted");
  EXPECT_EQ(chat(repeated(kMessagesMax + 1, message), "").param, "messages[16384]");

  std::string tools;
  std::string biases;
  std::string arguments;
  for (std::size_t i = 0; i < 5000; ++i) {
    const std::string number = std::to_string(i);
    const std::string comma = i > 0 ? "," : "";
    if (i <= kToolsMax) {
      tools += comma;
      tools += R"({"type":"function","function":{"name":"f)";
      tools += number;
      tools += R"("}})";
    }
    biases += comma;
    biases += '"';
    biases += number;
    biases += "\":1";
    arguments += comma;
    arguments += "\"k";
    arguments += number;
    arguments += "\":1";
  }
  const std::string one(message);
  EXPECT_EQ(chat(one, ",\"tools\":[" + tools + "]").param, "tools[1536]");
  EXPECT_EQ(chat(one, ",\"logit_bias\":{" + biases + "}").param, "logit_bias.4096");
  EXPECT_EQ(chat(one, ",\"chat_template_kwargs\":{" + arguments + "}").param,
            "chat_template_kwargs.k64");
  EXPECT_EQ(chat(one, ",\"stop_token_ids\":[" + repeated(33, "1") + "]").param,
            "stop_token_ids[32]");

  const auto prompts = [](Api api, std::string_view field, std::size_t count) {
    std::string body = R"({"model":"m",")";
    body += field;
    body += "\":[";
    body += repeated(count, "\"a\"");
    body += "]}";
    return parse(api, body);
  };
  EXPECT_EQ(prompts(Api::kCompletion, "prompt", kPromptsMax).message, "accepted");
  EXPECT_EQ(prompts(Api::kCompletion, "prompt", kPromptsMax + 1).param, "prompt[256]");
  EXPECT_EQ(prompts(Api::kEmbedding, "input", kEmbeddingInputsMax).message, "accepted");
  EXPECT_EQ(prompts(Api::kEmbedding, "input", kEmbeddingInputsMax + 1).param, "input[2048]");

  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += '[';
  EXPECT_THAT(chat(one, ",\"metadata\":" + deep).message, HasSubstr("not valid JSON"));
}

// E9: a prompt must not reach the log by way of an error.
TEST(Refusals, E9_NoPromptInAnError) {
  const std::vector<std::string_view> bodies = {
      R"({"model":"m","messages":"hush secret"})",
      R"({"model":"m","messages":["hush secret"]})",
      R"({"model":"m","messages":{"role":"user","content":"hush secret"}})",
      R"({"model":"m","messages":[{"role":"user","content":{"x":"hush secret"}}]})",
      R"({"model":"m","messages":[{"role":"user","content":["hush secret"]}]})",
      R"({"model":"m","messages":[{"role":"user","content":"hush secret"}],"n":0})",
      R"({"model":"m","messages":[{"role":"user","content":hush secret}]})",
      R"({"model":"m","messages":[{"role":"user","content":"hush secret})",
      R"({"model":"m","messages":[{"role":"user","content":"hush secret\q"}]})",
      R"({"model":"m","messages":[{"content":[{"type":"text","text":"hush secret"}]}]})",
      R"({"model":"m","messages":[{"role":"user","content":"x"}],"tools":"hush secret"})",
      R"({"model":"m","messages":[{"role":"user","content":"x"}],"stop":[["hush secret"]]})",
      R"({"model":"m","prompt":{"x":"hush secret"}})",
      R"({"model":"m","prompt":["x",{"x":"hush secret"}]})",
      R"({"model":"m","prompt":[1,"hush secret"]})",
      R"({"model":"m","prompt":"x","suffix":"hush secret"})",
  };
  for (const std::string_view body : bodies) {
    for (const Api api : {Api::kChat, Api::kCompletion}) {
      const Error error = parse(api, body);
      EXPECT_NE(error.message, "accepted") << body;
      EXPECT_THAT(error.message, testing::Not(HasSubstr("secret"))) << body;
      EXPECT_THAT(error.message, testing::Not(HasSubstr("hush"))) << body;
    }
  }
}

}  // namespace
}  // namespace penstock::api
