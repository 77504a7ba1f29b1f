#include "engine/simulated/answer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

namespace penstock::engine::simulated {
namespace {

SimulatedOptions options_with(std::uint32_t vocabulary) {
  SimulatedOptions options;
  for (std::uint32_t i = 0; i < vocabulary; ++i) {
    options.vocabulary.push_back(static_cast<Token>(100 + i));
  }
  return options;
}

GenerateRequest request(std::vector<Token> prompt, std::uint32_t max_tokens) {
  return {.id = {1}, .prompt = std::move(prompt), .max_tokens = max_tokens};
}

TEST(Answer, DependsOnPromptSaltSeedAndPosition) {
  const std::vector<Token> prompt = {1, 2, 3};
  const std::vector<Token> other = {1, 2, 4};
  const auto drawn = [](const Answer& answer) {
    std::vector<std::uint32_t> result;
    for (std::uint32_t i = 0; i < 16; ++i) result.push_back(answer.draw(i, 1'000'000));
    return result;
  };
  const auto base = drawn(Answer(prompt, "", 5));
  EXPECT_EQ(base, drawn(Answer(prompt, "", 5)));
  EXPECT_NE(base, drawn(Answer(other, "", 5)));
  EXPECT_NE(base, drawn(Answer(prompt, "tenant", 5)));
  EXPECT_NE(base, drawn(Answer(prompt, "", 6)));
  EXPECT_EQ(std::set<std::uint32_t>(base.begin(), base.end()).size(), base.size());
}

TEST(Answer, DrawsAllOfTheVocabularyAboutEquallyOften) {
  const Answer answer(std::vector<Token>{7}, "", 1);
  std::map<std::uint32_t, int> counts;
  for (std::uint32_t i = 0; i < 70'000; ++i) ++counts[answer.draw(i, 7)];
  ASSERT_EQ(counts.size(), 7U);
  for (const auto& [place, count] : counts) {
    EXPECT_LT(place, 7U);
    EXPECT_NEAR(count, 10'000, 500);
  }
  EXPECT_EQ(answer.draw(3, 1), 0U);
}

TEST(Answer, EndsAsOftenAsItShould) {
  const Answer answer(std::vector<Token>{7}, "", 1);
  int ends = 0;
  for (std::uint32_t i = 0; i < 40'000; ++i) {
    ends += answer.ends(i, 0.25) ? 1 : 0;
    EXPECT_FALSE(answer.ends(i, 0));
    EXPECT_TRUE(answer.ends(i, 1));
  }
  EXPECT_NEAR(ends, 10'000, 500);
}

TEST(WholeAnswer, IsAsLongAsAskedOrAsTheContextAllows) {
  SimulatedOptions options = options_with(50);
  options.context_tokens_max = 20;
  EXPECT_EQ(whole_answer(options, request({1, 2}, 5)).tokens.size(), 5U);
  const WholeAnswer cut = whole_answer(options, request({1, 2}, 500));
  EXPECT_EQ(cut.tokens.size(), 18U);
  EXPECT_EQ(cut.finish, FinishReason::kLength);
}

TEST(WholeAnswer, StopsAtStopTokensWithoutShowingThem) {
  const SimulatedOptions options = options_with(50);
  GenerateRequest r = request({1, 2}, 40);
  const std::vector<Token> all = whole_answer(options, r).tokens;
  r.stop_token_ids = {all[10]};
  const auto first =
      static_cast<std::size_t>(std::find(all.begin(), all.end(), all[10]) - all.begin());
  WholeAnswer stopped = whole_answer(options, r);
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.tokens, std::vector<Token>(all.begin(), all.begin() + first));

  r.min_tokens = 40;
  stopped = whole_answer(options, r);
  EXPECT_EQ(stopped.finish, FinishReason::kLength);
  EXPECT_EQ(stopped.tokens, all);
}

TEST(WholeAnswer, EndsOfItselfUnlessToldNotTo) {
  SimulatedOptions options = options_with(50);
  options.eos_probability = 1;
  GenerateRequest r = request({1, 2}, 40);
  EXPECT_TRUE(whole_answer(options, r).tokens.empty());
  EXPECT_EQ(whole_answer(options, r).finish, FinishReason::kStop);
  r.min_tokens = 7;
  EXPECT_EQ(whole_answer(options, r).tokens.size(), 7U);
  r.ignore_eos = true;
  EXPECT_EQ(whole_answer(options, r).tokens.size(), 40U);
}

TEST(ContextTokensMax, IsWhatTheWorkerCanHold) {
  SimulatedOptions options = options_with(1);
  EXPECT_EQ(context_tokens_max(options), 131072U);
  options.worker.kv_blocks = 10;
  EXPECT_EQ(context_tokens_max(options), 640U);
  options.worker.chunked_prefill = false;
  options.worker.pass_tokens_max = 100;
  EXPECT_EQ(context_tokens_max(options), 100U);
}

TEST(TopLogprobs, AreAPlausibleDistribution) {
  const std::vector<Token> vocabulary = {5, 6, 7, 8};
  const std::vector<TopLogprob> top = top_logprobs(vocabulary, 2, 9);
  ASSERT_EQ(top.size(), 4U);
  EXPECT_EQ(top[0].token, 7);
  EXPECT_EQ(top[0].logprob, kDrawnLogprob);
  std::set<Token> tokens;
  double sum = 0;
  for (std::size_t i = 0; i < top.size(); ++i) {
    tokens.insert(top[i].token);
    sum += std::exp(top[i].logprob);
    if (i > 0) {
      EXPECT_LT(top[i].logprob, top[i - 1].logprob);
    }
  }
  EXPECT_EQ(tokens.size(), 4U);
  EXPECT_LT(sum, 1);
  EXPECT_EQ(top_logprobs(vocabulary, 0, 2).size(), 2U);
}

TEST(Embedding, IsAUnitVectorOfItsTokens) {
  const std::vector<Token> tokens = {1, 2, 3};
  for (const std::uint32_t size : {1U, 3U, 768U}) {
    const std::vector<float> vector = embedding(tokens, size);
    ASSERT_EQ(vector.size(), size);
    const double norm = std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0);
    EXPECT_NEAR(norm, 1, 1e-5);
  }
  EXPECT_EQ(embedding(tokens, 16), embedding(tokens, 16));
  EXPECT_NE(embedding(tokens, 16), embedding(std::vector<Token>{1, 2, 4}, 16));
}

}  // namespace
}  // namespace penstock::engine::simulated
