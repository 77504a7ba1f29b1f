// /v1/embeddings over a model that makes some.
#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

#include "serve/internal/service_for_test.h"

namespace penstock::serve {
namespace {

using testing::HasSubstr;

class EmbeddingServiceTest : public ServiceTest {
 protected:
  using ServiceTest::ServiceTest;
  void configure(ModelOptions& options) override { text::tiny::write(options.path, 1, 1); }

  std::string embed(const std::string& input, const std::string& more = "", int status = 200,
                    const Headers& headers = {}) {
    return ask("/v1/embeddings", fmt::format(R"({{"model":"tiny","input":{}{}}})", input, more),
               status, "POST", headers);
  }

  static std::vector<double> vector_at(std::string_view json, std::size_t index) {
    simdjson::dom::parser parser;
    const simdjson::dom::element document = parser.parse(json.data(), json.size());
    std::vector<double> vector;
    for (const double x : document.at_pointer(fmt::format("/data/{}/embedding", index)).get_array())
      vector.push_back(x);
    return vector;
  }
};

/// Little-endian floats.
std::vector<float> floats_of(std::string_view base64) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : base64) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<std::uint32_t>(kDigits.find(c));
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xFF);
  }
  std::vector<float> floats(bytes.size() / sizeof(float));
  std::memcpy(floats.data(), bytes.data(), floats.size() * sizeof(float));
  return floats;
}

TEST_F(EmbeddingServiceTest, VectorsComeInTheOrderOfTheInputsAndAreOfLengthOne) {
  const std::string alone = embed(R"("three")");
  const std::string all = embed(R"(["one","two","three"])");
  EXPECT_EQ(text_at(all, "/object"), "list");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(number_at(all, fmt::format("/data/{}/index", i)), i);
    const std::vector<double> vector = vector_at(all, static_cast<std::size_t>(i));
    ASSERT_EQ(vector.size(), 64U);
    double squares = 0;
    for (const double x : vector) squares += x * x;
    EXPECT_NEAR(squares, 1, 1e-3);
  }
  EXPECT_NE(vector_at(all, 0), vector_at(all, 1));
  const std::vector<double> third = vector_at(all, 2);
  const std::vector<double> same = vector_at(alone, 0);
  for (std::size_t i = 0; i < same.size(); ++i) EXPECT_NEAR(third[i], same[i], 1e-4);
}

TEST_F(EmbeddingServiceTest, TextTokensAndBase64AreTheSameVector) {
  const std::vector<double> text = vector_at(embed(R"("abc")"), 0);
  const std::vector<double> tokens = vector_at(embed("[97,98,99]"), 0);
  const std::vector<float> packed =
      floats_of(text_at(embed(R"("abc")", R"(,"encoding_format":"base64")"), "/data/0/embedding"));
  ASSERT_EQ(packed.size(), text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    EXPECT_NEAR(tokens[i], text[i], 1e-4);
    EXPECT_NEAR(packed[i], text[i], 1e-4);
  }
}

TEST_F(EmbeddingServiceTest, UsageCountsTheTokensOfAllInputs) {
  const std::string answer = embed(R"(["abc","de"])", R"(,"frobnicate":1)");
  EXPECT_EQ(number_at(answer, "/usage/prompt_tokens"), 5);
  EXPECT_EQ(number_at(answer, "/usage/total_tokens"), 5);
  EXPECT_EQ(metric("penstock_prompt_tokens_total"), 5);
  EXPECT_EQ(metric("penstock_unknown_request_fields_total"), 1);
  EXPECT_EQ(metric(R"(penstock_requests_total{endpoint="embeddings",status="200"})"), 1);
}

TEST_F(EmbeddingServiceTest, RefusalsNameTheField) {
  EXPECT_EQ(text_at(embed(R"("x")", R"(,"dimensions":3)", 400), "/error/param"), "dimensions");
  EXPECT_EQ(text_at(embed("[300]", "", 400), "/error/param"), "input");
  EXPECT_EQ(text_at(embed(fmt::format(R"("{}")", std::string(3000, 'x')), "", 400), "/error/code"),
            "context_length_exceeded");
  EXPECT_EQ(text_at(embed(R"("x")", "", 400, {{"x-data-parallel-rank", "7"}}), "/error/param"),
            "x-data-parallel-rank");
  EXPECT_EQ(metric(R"(penstock_requests_total{endpoint="embeddings",status="400"})"), 4);
  EXPECT_EQ(service_.in_flight(), 0U);
}

/// 300 inputs of 900 tokens each: seconds.
std::string long_inputs() {
  std::string inputs = "[";
  for (int i = 0; i < 300; ++i) {
    inputs += fmt::format(R"({}"{}")", i == 0 ? "" : ",", std::string(900, 'x'));
  }
  return inputs + "]";
}

TEST_F(EmbeddingServiceTest, LeavingEndsItAndItIsShownWhileItRuns) {
  Call call;
  auto handle =
      start(call, "/v1/embeddings", fmt::format(R"({{"model":"tiny","input":{}}})", long_inputs()));
  while (service_.in_flight() == 0) std::this_thread::yield();
  const std::string shown = ask("/debug/requests", "", 200, "GET");
  EXPECT_EQ(text_at(shown, "/requests/0/endpoint"), "embeddings");
  EXPECT_EQ(number_at(shown, "/requests/0/choices"), 300);
  on_loop([&] { handle.reset(); });
  while (service_.in_flight() > 0 || model_->dispatcher().in_flight() > 0) {
    std::this_thread::yield();
  }
  EXPECT_EQ(metric(R"(penstock_requests_cancelled_total{reason="client_gone"})"), 1);
  EXPECT_EQ(metric(R"(penstock_requests_total{endpoint="embeddings",status="499"})"), 1);
}

TEST_F(EmbeddingServiceTest, ShutDownIsAnError) {
  Call call;
  auto handle =
      start(call, "/v1/embeddings", fmt::format(R"({{"model":"tiny","input":{}}})", long_inputs()));
  while (service_.in_flight() == 0) std::this_thread::yield();
  service_.drain();
  service_.shut_down();
  const std::string answer = call.wait();
  EXPECT_EQ(call.status(), 503);
  EXPECT_THAT(answer, HasSubstr("shutting down"));
  EXPECT_EQ(metric(R"(penstock_requests_cancelled_total{reason="shutdown"})"), 1);
  on_loop([&] { handle.reset(); });
}

class LateEmbeddingTest : public EmbeddingServiceTest {
 protected:
  LateEmbeddingTest()
      : EmbeddingServiceTest(ServiceOptions{.request_timeout = std::chrono::nanoseconds(1)}) {}
};

TEST_F(LateEmbeddingTest, TheDeadlineIsKept) {
  EXPECT_EQ(text_at(embed(R"("x")", "", 504), "/error/code"), "deadline_exceeded");
  EXPECT_EQ(metric(R"(penstock_requests_cancelled_total{reason="deadline"})"), 1);
  EXPECT_EQ(service_.in_flight(), 0U);
}

}  // namespace
}  // namespace penstock::serve
