#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/internal/service_for_test.h"

namespace penstock::serve {
namespace {

/// A model of BERT's architecture, which cannot generate.
class EmbeddingsOnlyTest : public ServiceTest {
 protected:
  void configure(ModelOptions& options) override { text::tiny::write_bert(options.path); }
};

TEST_F(EmbeddingsOnlyTest, EmbedsAndRefusesTheRest) {
  EXPECT_THAT(chat("", 422), testing::HasSubstr("/v1/embeddings"));
  EXPECT_THAT(chat(R"("stream":true)", 422), testing::HasSubstr("/v1/embeddings"));
  EXPECT_THAT(ask("/v1/completions", R"({"model":"tiny","prompt":"a"})", 422),
              testing::HasSubstr("/v1/embeddings"));
  const std::string answer =
      ask("/v1/embeddings", R"({"model":"tiny","input":["Hello there","Hello"]})");
  EXPECT_EQ(number_at(answer, "/data/1/index"), 1);
  EXPECT_EQ(number_at(answer, "/usage/prompt_tokens"), 16);
  const std::string longest(500, 'a');
  ask("/v1/embeddings", fmt::format(R"({{"model":"tiny","input":"{}"}})", longest));
  EXPECT_EQ(text_at(ask("/v1/embeddings",
                        fmt::format(R"({{"model":"tiny","input":"{}a"}})", longest), 400),
                    "/error/param"),
            "input");
  ask("/debug/workers/0/clear-cache", "", 422);
}

}  // namespace
}  // namespace penstock::serve
