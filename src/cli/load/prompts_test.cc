#include "cli/load/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <simdjson.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace penstock::cli::load {
namespace {

using testing::HasSubstr;

struct Message {
  std::string role;
  std::string content;
  auto operator<=>(const Message&) const = default;
};

/// What a chat turn says, as a server would read it.
std::vector<Message> messages_of(const std::string& turn) {
  simdjson::dom::parser parser;
  const std::string json = "[" + turn + "]";
  std::vector<Message> messages;
  simdjson::dom::array array;
  EXPECT_EQ(parser.parse(json).get(array), simdjson::SUCCESS) << json;
  for (const auto message : array) {
    messages.push_back({std::string(message["role"].get_string().value()),
                        std::string(message["content"].get_string().value())});
  }
  return messages;
}

std::ptrdiff_t word_count(const std::string& text) { return std::ranges::count(text, ' '); }

TEST(GeneratedPromptsTest, AreUniqueOfTheSizeAndTheSameForASeed) {
  const auto source = make_generated_prompts({.seed = 3, .tokens = 20});
  const auto again = make_generated_prompts({.seed = 3, .tokens = 20});
  const auto other = make_generated_prompts({.seed = 4, .tokens = 20});
  std::set<std::string> contents;
  for (std::uint64_t session = 0; session < 500; ++session) {
    for (const std::uint32_t turn : {0, 1, 2}) {
      const std::string text = source->turn(session, turn);
      const auto messages = messages_of(text);
      ASSERT_EQ(messages.size(), 1U);
      EXPECT_EQ(messages[0].role, "user");
      EXPECT_EQ(word_count(messages[0].content), 20);
      contents.insert(messages[0].content);
      EXPECT_EQ(text, again->turn(session, turn));
      contents.insert(messages_of(other->turn(session, turn))[0].content);
    }
  }
  EXPECT_EQ(contents.size(), 2U * 500 * 3);
}

TEST(GeneratedPromptsTest, SizeInBytes) {
  const auto source = make_generated_prompts({.size_bytes = 777});
  EXPECT_EQ(messages_of(source->turn(0, 0))[0].content.size(), 777U);
}

TEST(GeneratedPromptsTest, SessionsOfAGroupShareTheSystemPromptOfTheFirstTurn) {
  const auto source =
      make_generated_prompts({.tokens = 10, .shared_prefix_tokens = 50, .prefix_groups = 4});
  std::map<std::string, int> sessions_by_prefix;
  for (std::uint64_t session = 0; session < 400; ++session) {
    const auto messages = messages_of(source->turn(session, 0));
    ASSERT_EQ(messages.size(), 2U);
    EXPECT_EQ(messages[0].role, "system");
    EXPECT_EQ(word_count(messages[0].content), 50);
    EXPECT_EQ(messages[1].role, "user");
    ++sessions_by_prefix[messages[0].content];
    EXPECT_EQ(messages_of(source->turn(session, 1)).size(), 1U);
  }
  EXPECT_EQ(sessions_by_prefix.size(), 4U);
  for (const auto& [prefix, sessions] : sessions_by_prefix) EXPECT_GT(sessions, 50);
}

TEST(GeneratedPromptsTest, CompletionsAreBareText) {
  const auto source = make_generated_prompts(
      {.endpoint = Endpoint::kCompletions, .tokens = 10, .shared_prefix_tokens = 5});
  const std::string first = source->turn(0, 0);
  const std::string second = source->turn(1, 0);
  EXPECT_EQ(word_count(first), 15);
  EXPECT_EQ(first.find('{'), std::string::npos);
  EXPECT_NE(first, second);
  std::size_t shared = 0;
  while (first[shared] == second[shared]) ++shared;
  EXPECT_GE(word_count(first.substr(0, shared)), 5);
}

TEST(FilePromptsTest, TakesStringsMessagesAndObjects) {
  const auto source = read_prompts(
      "\"say \\\"hi\\\"\"\n"
      R"([{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"u"}]}])"
      "\n\n"
      R"({"messages":[{"role":"user","content":"m"}],"id":7})"
      "\n"
      R"({"prompt":"p"})",
      Endpoint::kChat);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ((*source)->sessions(), 4U);
  EXPECT_EQ(messages_of((*source)->turn(0, 0)), (std::vector<Message>{{"user", "say \"hi\""}}));
  EXPECT_EQ(
      (*source)->turn(1, 0),  // as it stands
      R"({"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"u"}]})");
  EXPECT_EQ(messages_of((*source)->turn(2, 0)), (std::vector<Message>{{"user", "m"}}));
  EXPECT_EQ(messages_of((*source)->turn(3, 0)), (std::vector<Message>{{"user", "p"}}));
  EXPECT_EQ((*source)->turn(5, 0), (*source)->turn(1, 0));  // from the top again
}

TEST(FilePromptsTest, CompletionsTakeText) {
  const auto source = read_prompts("\"a\\nb\"\n{\"prompt\":\"p\"}", Endpoint::kCompletions);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ((*source)->turn(0, 0), "a\nb");
  EXPECT_EQ((*source)->turn(1, 0), "p");
}

TEST(FilePromptsTest, ABadLineIsNamedWithWhatIsWrong) {
  const struct {
    const char* line;
    Endpoint endpoint;
    const char* says;
  } cases[] = {
      {"{nonsense", Endpoint::kChat, "line 2: no JSON"},
      {"17", Endpoint::kChat, "line 2: expected"},
      {"[]", Endpoint::kChat, "line 2: expected"},
      {"[1]", Endpoint::kChat, "line 2: expected objects"},
      {"\"\"", Endpoint::kChat, "line 2: the prompt is empty"},
      {R"({"text":"x"})", Endpoint::kChat, "line 2: expected \"messages\" or \"prompt\""},
      {R"([{"role":"user","content":"x"}])", Endpoint::kCompletions, "--endpoint chat"},
  };
  for (const auto& c : cases) {
    const auto source = read_prompts(std::string("\"fine\"\n") + c.line, c.endpoint);
    ASSERT_FALSE(source) << c.line;
    EXPECT_THAT(source.error().message, HasSubstr(c.says));
  }
  EXPECT_FALSE(read_prompts("\n", Endpoint::kChat));
}

TEST(TracePromptsTest, EqualIdsGiveEqualTextAndOthersDiffer) {
  const std::vector<TraceRequest> trace = {
      {.input_tokens = 25, .output_tokens = 5, .blocks = {1, 2, 3}},
      {.input_tokens = 30, .output_tokens = 6, .blocks = {1, 2, 4}},
      {.input_tokens = 30, .output_tokens = 7, .blocks = {1}},
      {.input_tokens = 30, .output_tokens = 8, .blocks = {1}},
      {.input_tokens = 12, .output_tokens = 9, .blocks = {1, 2, 3, 4}},
  };
  const auto source = make_trace_prompts(
      {.endpoint = Endpoint::kCompletions, .seed = 1, .block_tokens = 10}, trace);
  std::vector<std::string> texts;
  for (std::uint64_t i = 0; i < trace.size(); ++i) {
    texts.push_back(source->turn(i, 0));
    EXPECT_EQ(word_count(texts[i]), trace[i].input_tokens);
    EXPECT_EQ(source->output_tokens(i), trace[i].output_tokens);
  }
  const auto shared_words = [&](std::size_t a, std::size_t b) {
    std::size_t shared = 0;
    while (shared < std::min(texts[a].size(), texts[b].size()) &&
           texts[a][shared] == texts[b][shared]) {
      ++shared;
    }
    return word_count(texts[a].substr(0, shared));
  };
  // Where blocks begin to differ, a word more may agree by chance, never a block.
  EXPECT_GE(shared_words(0, 1), 20);
  EXPECT_LT(shared_words(0, 1), 24);
  EXPECT_GE(shared_words(0, 2), 10);
  EXPECT_LT(shared_words(0, 2), 14);
  EXPECT_GE(shared_words(2, 3), 10);  // what no id covers is each request's own
  EXPECT_LT(shared_words(2, 3), 14);
  EXPECT_TRUE(texts[0].starts_with(texts[4]));
}

}  // namespace
}  // namespace penstock::cli::load
