#include "text/literal_choice.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"

namespace penstock::text {
namespace {

/// Every text that a choice of literals, groups and ? allows. Fails where two alternatives begin
/// alike.
class Texts {
 public:
  explicit Texts(std::string_view choice) : rest_(choice) {}

  // NOLINTNEXTLINE(misc-no-recursion)
  std::set<std::string> all() {
    std::set<std::string> texts;
    std::set<char> beginnings;
    while (true) {
      const std::set<std::string> more = sequence();
      EXPECT_TRUE(beginnings.insert(more.begin()->front()).second) << *more.begin();
      texts.insert(more.begin(), more.end());
      if (!rest_.starts_with(" | ")) return texts;
      rest_.remove_prefix(3);
    }
  }
  [[nodiscard]] bool done() const { return rest_.empty(); }

 private:
  // NOLINTNEXTLINE(misc-no-recursion)
  std::set<std::string> sequence() {
    const std::size_t end = rest_.find('"', 1);
    const std::string literal(rest_.substr(1, end - 1));
    rest_.remove_prefix(end + 1);
    std::set<std::string> texts;
    if (rest_.starts_with(" (")) {
      rest_.remove_prefix(2);
      for (const std::string& text : all()) texts.insert(literal + text);
      rest_.remove_prefix(1);
      if (!rest_.starts_with('?')) return texts;
      rest_.remove_prefix(1);
    }
    texts.insert(literal);
    return texts;
  }

  std::string_view rest_;
};

TEST(FactorChoicesTest, AllowsTheSameTextsWithoutTwoThatBeginAlike) {
  Rng random(7);
  for (int round = 0; round < 200; ++round) {
    std::set<std::string> words;
    const std::uint32_t letters = 1 + random.below(4);
    for (std::uint32_t i = 0; i < 8 + random.below(60); ++i) {
      std::string word;
      for (std::uint32_t n = 1 + random.below(10); n > 0; --n) {
        word += static_cast<char>('a' + random.below(letters));
      }
      words.insert(word);
    }
    std::string gbnf = "root ::=";
    for (const std::string& word : words) {
      gbnf += fmt::format("{} \"{}\"", gbnf.ends_with('=') ? "" : " |", word);
    }
    if (words.size() < 8) continue;
    const std::string factored = factor_choices(gbnf);
    ASSERT_TRUE(factored.starts_with("root ::= ")) << factored;
    Texts texts(std::string_view(factored).substr(9));
    EXPECT_EQ(texts.all(), words) << factored;
    EXPECT_TRUE(texts.done()) << factored;
  }
}

TEST(FactorChoicesTest, EscapesAndCharactersStayWhole) {
  EXPECT_EQ(
      factor_choices("root ::= a (\"\\\"a\\\"\" | \"\\\"b\\\"\" | \"\\\"\\\\n\\\"\" | \"é\" |\n"
                     "\"è\" | \"\\x41\" | \"\\x42\" | \"\\u00e9\" | \"b\") space\nx ::= \"y\""),
      "root ::= a ( \"\\\"\" (\"\\\\n\\\"\" | \"a\\\"\" | \"b\\\"\") | \"\\u00e9\" | \"\\x41\" | "
      "\"\\x42\" | \"b\" | \"è\" | \"é\") space\nx ::= \"y\"");
}

TEST(FactorChoicesTest, WhatIsNotAPlainChoiceStays) {
  std::string many = "\"a0\"";
  for (int i = 1; i < 20; ++i) many += fmt::format(" | \"a{}\"", i);
  for (const std::string& gbnf :
       {std::string("root ::= \"a\" | \"ab\""), "root ::= (" + many + " | x)",
        "root ::= (" + many + "*)", "root ::= (" + many + " [a])", "root ::= " + many + " x\n",
        "root ::= [(] " + many, "root ::= \"(\" " + many + " \")\"", "root ::= x # (" + many + ")",
        "root ::= (" + many, "root ::= (" + many + " | \"", "root ::= (\"\" | " + many + ")"}) {
    EXPECT_EQ(factor_choices(gbnf), gbnf);
  }
}

TEST(FactorChoicesTest, GroupsDoNotNestWithoutEnd) {
  std::string gbnf = "root ::= (";
  for (std::size_t i = 1; i < 500; ++i) {
    gbnf += fmt::format("{}\"{}\"", i == 1 ? "" : " | ", std::string(i, 'a'));
  }
  const std::string factored = factor_choices(gbnf + ")");
  EXPECT_EQ(std::ranges::count(factored, '('), 17);
}

}  // namespace
}  // namespace penstock::text
