// What holds for every request, whatever is in it.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "api/openai.h"
#include "api/padded_body.h"

namespace penstock::api {
namespace {

ChatRequest parsed(std::string_view text) {
  const PaddedBody body(text);
  auto request = parse_chat_request(body.view());
  EXPECT_TRUE(request.has_value()) << text << '\n' << request.error().message;
  return request.value_or(ChatRequest{});
}

/// A JSON value whose objects can be written in any order.
struct Node {
  enum class Kind { kLeaf, kObject, kArray };
  Kind kind = Kind::kLeaf;
  std::string text;                // of a leaf
  std::vector<std::string> names;  // of an object's members
  std::vector<Node> children;
};

Node leaf(std::string text) { return {Node::Kind::kLeaf, std::move(text), {}, {}}; }

Node object(std::vector<std::pair<std::string, Node>> fields) {
  Node node{Node::Kind::kObject, {}, {}, {}};
  for (auto& [name, value] : fields) {
    node.names.push_back(std::move(name));
    node.children.push_back(std::move(value));
  }
  return node;
}

Node array(std::vector<Node> elements) { return {Node::Kind::kArray, {}, {}, std::move(elements)}; }

void blanks(std::string& out, std::mt19937& random) {
  constexpr std::string_view kBlanks = " \t\r\n";
  while (random() % 3 == 0) out += kBlanks[random() % kBlanks.size()];
}

void write(std::string& out, const Node& node, std::mt19937& random) {
  blanks(out, random);
  if (node.kind == Node::Kind::kLeaf) {
    out += node.text;
  } else if (node.kind == Node::Kind::kArray) {
    out += '[';
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      if (i > 0) out += ',';
      write(out, node.children[i], random);
    }
    out += ']';
  } else {
    std::vector<std::size_t> order(node.children.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::ranges::shuffle(order, random);
    out += '{';
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i > 0) out += ',';
      blanks(out, random);
      append_json_string(out, node.names[order[i]]);
      blanks(out, random);
      out += ':';
      write(out, node.children[order[i]], random);
    }
    out += '}';
  }
  blanks(out, random);
}

/// Every field there is, nested ones included.
Node full_chat() {
  const auto text_part = [](std::string_view text) {
    std::string json;
    append_json_string(json, text);
    return object({{"type", leaf("\"text\"")}, {"text", leaf(json)}});
  };
  const Node call = object(
      {{"id", leaf("\"c1\"")},
       {"type", leaf("\"function\"")},
       {"function", object({{"name", leaf("\"f\"")}, {"arguments", leaf(R"("{\"x\": 1}")")}})}});
  const Node tool = object({{"type", leaf("\"function\"")},
                            {"function", object({{"name", leaf("\"f\"")},
                                                 {"description", leaf("\"d\"")},
                                                 {"parameters", leaf(R"({"a":{"b":[1,{}]}})")},
                                                 {"strict", leaf("true")}})}});
  const Node format = object({{"type", leaf("\"json_schema\"")},
                              {"json_schema", object({{"name", leaf("\"n\"")},
                                                      {"schema", leaf(R"({"type":"object"})")},
                                                      {"strict", leaf("false")}})}});
  return object({
      {"model", leaf("\"m\"")},
      {"messages",
       array({object({{"role", leaf("\"system\"")}, {"content", leaf(R"("be \"brief\"\n")")}}),
              object({{"role", leaf("\"user\"")},
                      {"name", leaf("\"bob\"")},
                      {"content", array({text_part("grüße 🙂"), text_part("two")})}}),
              object({{"role", leaf("\"assistant\"")},
                      {"content", leaf("null")},
                      {"reasoning_content", leaf("\"hm\"")},
                      {"tool_calls", array({call})}}),
              object({{"role", leaf("\"tool\"")},
                      {"tool_call_id", leaf("\"c1\"")},
                      {"content", leaf("\"42\"")}})})},
      {"tools", array({tool})},
      {"tool_choice",
       object({{"type", leaf("\"function\"")}, {"function", object({{"name", leaf("\"f\"")}})}})},
      {"response_format", format},
      {"stream", leaf("true")},
      {"stream_options", object({{"include_usage", leaf("true")}})},
      {"n", leaf("2")},
      {"max_tokens", leaf("10")},
      {"max_completion_tokens", leaf("20")},
      {"min_tokens", leaf("15")},
      {"temperature", leaf("0.7")},
      {"top_p", leaf("0.9")},
      {"top_k", leaf("40")},
      {"seed", leaf("18446744073709551615")},
      {"stop", leaf(R"(["x",5])")},
      {"stop_token_ids", leaf("[7,1]")},
      {"logit_bias", object({{"5", leaf("1")}, {"3", leaf("-1.5")}, {"50256", leaf("100")}})},
      {"logprobs", leaf("true")},
      {"top_logprobs", leaf("3")},
      {"chat_template_kwargs", leaf(R"({"a":{"b":1}})")},
      {"reasoning_effort", leaf("\"high\"")},
      {"metadata", object({{"model", leaf("\"x\"")}})},
      {"unheard_of", array({leaf("1"), object({})})},
      {"user", leaf("\"u\"")},
  });
}

TEST(ParseProperty, TheOrderOfFieldsIsOfNoEffect) {
  std::mt19937 random(17);
  std::string first;
  write(first, full_chat(), random);
  const ChatRequest expected = parsed(first);
  EXPECT_EQ(expected.messages.size(), 4U);
  EXPECT_EQ(expected.max_tokens, 20U);
  for (int round = 0; round < 300; ++round) {
    std::string body;
    write(body, full_chat(), random);
    ASSERT_EQ(parsed(body), expected) << body;
  }
}

TEST(ParseProperty, EveryPrefixIsRefused) {
  std::mt19937 random(19);
  std::string chat_text;
  write(chat_text, full_chat(), random);
  while (chat_text.back() != '}') chat_text.pop_back();
  const std::vector<std::string> bodies = {
      chat_text,
      R"({"model":"m","prompt":[[1,2],[3]],"echo":true,"logprobs":2})",
      R"({"model":"m","input":["a","b"],"encoding_format":"base64"})",
  };
  for (const std::string& whole : bodies) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      for (const char filler : {'}', ' ', '\0'}) {
        const PaddedBody body(whole.substr(0, size), filler);
        const auto refused = [&](const auto& result) {
          ASSERT_FALSE(result.has_value()) << body.view();
          EXPECT_EQ(result.error().code, Code::kInvalidArgument);
          EXPECT_FALSE(result.error().message.empty());
        };
        refused(parse_chat_request(body.view()));
        refused(parse_completion_request(body.view()));
        refused(parse_embedding_request(body.view()));
      }
    }
  }
}

// One byte changed, lost or doubled: any answer will do, as long as there is one.
TEST(ParseProperty, DamagedBodiesGetAnAnswer) {
  std::mt19937 random(23);
  std::string whole;
  write(whole, full_chat(), random);
  constexpr std::string_view kBytes = "\"\\{}[]:,0-.etn \x01\x80\xFF";
  int refused = 0;
  for (int round = 0; round < 5000; ++round) {
    std::string damaged = whole;
    const std::size_t at = random() % damaged.size();
    switch (random() % 3) {
      case 0: damaged[at] = kBytes[random() % kBytes.size()]; break;
      case 1: damaged.erase(at, 1); break;
      default: damaged.insert(at, 1, kBytes[random() % kBytes.size()]);
    }
    const PaddedBody body(damaged);
    const auto result = parse_chat_request(body.view());
    if (!result) {
      ++refused;
      EXPECT_FALSE(result.error().message.empty());
      EXPECT_LT(result.error().message.size(), 400U);
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(ParseProperty, AnyTextComesThroughAsContent) {
  std::mt19937 random(29);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::size_t i = random() % 200; i > 0; --i) {
      constexpr std::string_view kLikely = "\"\\{}[]:,\n\t aé日";
      text += random() % 2 == 0 ? kLikely[random() % kLikely.size()]
                                : static_cast<char>(random() % 0x80);
    }
    std::string content;
    append_json_string(content, text);
    std::string json = R"({"model":"m","messages":[{"role":"user","content":)";
    json += content;
    json += "}]}";
    const ChatRequest request = parsed(json);
    ASSERT_EQ(request.messages.size(), 1U);
    std::string again;
    append_json_string(again, request.messages[0].content);
    ASSERT_EQ(again, content);
  }
}

}  // namespace
}  // namespace penstock::api
