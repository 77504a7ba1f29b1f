// Embeddings through the worker: in parts beside answers, and by models that do nothing else.
#include <gtest/gtest.h>
#include <llama.h>

#include <cmath>
#include <functional>
#include <future>
#include <random>

#include "engine/llama/batch_shape.h"
#include "engine/llama/llama_engine.h"
#include "text/tiny_model.h"

namespace penstock::engine {
namespace {

using Vector = Result<std::vector<float>>;

std::vector<Token> input_of(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Token> made(count);
  for (Token& t : made) t = static_cast<Token>(random() % 256);
  return made;
}

/// What llama.cpp itself makes of all of an input at once.
std::vector<float> whole(const text::ModelFile& model, std::vector<Token> tokens) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 1024;
  params.embeddings = true;
  params.n_threads = params.n_threads_batch = 1;
  llama_context* context = llama_init_from_model(model.handle(), params);
  EXPECT_EQ(llama_decode(context, llama_batch_get_one(tokens.data(),
                                                      static_cast<std::int32_t>(tokens.size()))),
            0);
  const float* values = llama_get_embeddings_seq(context, 0);
  std::vector<float> vector(values, values + llama_model_n_embd_out(model.handle()));
  double squares = 0;
  for (const float v : vector) squares += static_cast<double>(v) * v;
  for (float& v : vector) v = static_cast<float>(v / std::sqrt(squares));
  llama_free(context);
  return vector;
}

/// Both are of length 1, and rounded otherwise here and there.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  double cosine = 0;
  for (std::size_t i = 0; i < got.size(); ++i) cosine += static_cast<double>(got[i]) * expected[i];
  EXPECT_NEAR(cosine, 1, 1e-3);
}

/// Holds the engine up at an answer's first output until it is let go. Then tells of each token.
class Gate final : public OutputSink {
 public:
  void deliver(std::span<Output> outputs) override {
    for (const Output& output : outputs) {
      if (output.token) ++tokens;
      if (output.finish) done_.set_value();
    }
    if (tokens == 1) {
      held_.set_value();
      let_go_.get_future().wait();
    } else if (on_token) {
      on_token();
    }
  }
  void wait_until_held() { held_.get_future().wait(); }
  void let_go() { let_go_.set_value(); }
  void wait_for_end() { done_.get_future().wait(); }

  int tokens = 0;  // the engine's thread, and whoever has waited for the end
  std::function<void()> on_token;

 private:
  std::promise<void> held_;
  std::promise<void> let_go_;
  std::promise<void> done_;
};

class EmbedderTest : public testing::Test {
 protected:
  std::unique_ptr<Engine> engine(std::shared_ptr<const text::ModelFile> model,
                                 std::uint32_t step_tokens = 512) {
    Result<std::unique_ptr<Engine>> made = make_llama_engine(
        std::move(model),
        {.sequences_max = 2, .context_tokens = 1024, .threads = 1, .step_tokens = step_tokens},
        clock_);
    EXPECT_TRUE(made.has_value()) << (made ? "" : made.error().message);
    return std::move(*made);
  }
  Vector embed(Engine& e, EmbedRequest request) {
    std::promise<Vector> done;
    const Result<void> queued =
        e.embed(std::move(request), [&](Vector v) { done.set_value(std::move(v)); });
    if (!queued) return std::unexpected(queued.error());
    return done.get_future().get();
  }
  GenerateRequest request(OutputSink& sink, std::uint32_t max_tokens) {
    GenerateRequest r{.id = {1}, .sink = &sink, .prompt = {1, 2, 3}, .max_tokens = max_tokens};
    r.ignore_eos = true;
    return r;
  }

  SteadyClock clock_;
};

TEST_F(EmbedderTest, OnlyModelsThatPoolMakeThem) {
  const auto plain = engine(text::tiny_model());
  EXPECT_EQ(plain->info().embedding_size, 0U);
  EXPECT_FALSE(plain->info().embeds_only);
  EXPECT_EQ(embed(*plain, {.tokens = {1, 2}}).error().code, Code::kUnprocessable);
  const auto pooling = engine(text::tiny_model(1, 1));
  EXPECT_EQ(pooling->info().embedding_size, 64U);
  EXPECT_FALSE(pooling->info().embeds_only);
  EXPECT_EQ(embed(*pooling, {}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(embed(*pooling, {.tokens = input_of(1025, 1)}).error().code, Code::kInvalidArgument);
}

TEST_F(EmbedderTest, InPartsItIsWhatLlamaMakesOfTheWhole) {
  for (const int pooling : {1, 2, 3}) {  // mean, first, last
    const auto model = text::tiny_model(1, pooling);
    const auto small = engine(model, llama::kTiledRows);
    const auto large = engine(model);
    for (const std::size_t tokens : {1, 63, 64, 65, 511, 513, 1000}) {
      SCOPED_TRACE(testing::Message() << "pooling " << pooling << ", " << tokens << " tokens");
      const std::vector<Token> input = input_of(tokens, 7);
      const std::vector<float> expected = whole(*model, input);
      for (Engine* e : {small.get(), large.get()}) {
        const Vector vector = embed(*e, {.tokens = input});
        ASSERT_TRUE(vector) << vector.error().message;
        expect_near(*vector, expected);
      }
    }
  }
}

TEST_F(EmbedderTest, AnswersGoOnWhileALongInputIsComputed) {
  Gate gate;
  const auto e = engine(text::tiny_model(1, 1), llama::kTiledRows);
  ASSERT_TRUE(e->generate(request(gate, 200)).has_value());
  gate.wait_until_held();
  std::promise<int> at;
  ASSERT_TRUE(e->embed({.tokens = input_of(1000, 2)}, [&](const Vector& v) {
                 EXPECT_TRUE(v.has_value());
                 at.set_value(gate.tokens);
               }).has_value());
  gate.let_go();
  EXPECT_GE(at.get_future().get(), 15);  // parts of 64
  gate.wait_for_end();
}

TEST_F(EmbedderTest, OneThatIsStoppedOrLateEndsInTheMiddle) {
  Gate gate;
  ManualClock clock;
  auto made = make_llama_engine(
      text::tiny_model(1, 1),
      {.sequences_max = 2, .context_tokens = 1024, .threads = 1, .step_tokens = llama::kTiledRows},
      clock);
  ASSERT_TRUE(made);
  Engine& e = **made;
  ASSERT_TRUE(e.generate(request(gate, 200)).has_value());
  gate.wait_until_held();
  std::stop_source stop;
  int stopped_at = 0;
  int late_at = 0;
  const auto begin = [&](EmbedRequest r, std::promise<Vector>& done, int& at) {
    ASSERT_TRUE(e.embed(std::move(r), [&](Vector v) {
                   at = gate.tokens;
                   done.set_value(std::move(v));
                 }).has_value());
  };
  std::promise<Vector> stopped;
  std::promise<Vector> late;
  std::promise<Vector> next;
  int next_at = 0;
  const Deadline deadline(clock.now() + std::chrono::seconds(1));
  begin({.tokens = input_of(1000, 2), .stop = stop.get_token()}, stopped, stopped_at);
  begin({.tokens = input_of(1000, 3), .deadline = deadline}, late, late_at);
  begin({.tokens = input_of(70, 4)}, next, next_at);
  gate.on_token = [&] {
    if (gate.tokens == 5) stop.request_stop();
    if (gate.tokens == 10) clock.advance(std::chrono::seconds(2));
  };
  gate.let_go();
  EXPECT_EQ(stopped.get_future().get().error().code, Code::kCancelled);
  EXPECT_EQ(late.get_future().get().error().code, Code::kDeadlineExceeded);
  const Vector vector = next.get_future().get();
  ASSERT_TRUE(vector.has_value());
  gate.wait_for_end();
  EXPECT_LE(stopped_at, 6);
  EXPECT_GE(late_at, 10);
  EXPECT_LE(late_at, 12);
  // What was left of the others is not in it.
  expect_near(*vector, whole(*text::tiny_model(1, 1), input_of(70, 4)));
}

TEST_F(EmbedderTest, AModelThatOnlyEmbedsIsServedForThat) {
  const auto model = text::tiny_bert();
  const auto e = engine(model);
  EXPECT_TRUE(e->info().embeds_only);
  EXPECT_EQ(e->info().embedding_size, 32U);
  EXPECT_EQ(e->info().context_tokens_max, 500U);  // its positions end there
  Gate sink;
  EXPECT_EQ(e->generate(request(sink, 5)).error().code, Code::kUnprocessable);
  EXPECT_EQ(e->clear_cache().error().code, Code::kUnprocessable);
  for (const std::size_t tokens : {1, 70, 500}) {
    const std::vector<Token> input = input_of(tokens, 3);
    const Vector vector = embed(*e, {.tokens = input});
    ASSERT_TRUE(vector) << vector.error().message;
    expect_near(*vector, whole(*model, input));
  }
  EXPECT_EQ(embed(*e, {.tokens = input_of(501, 3)}).error().code, Code::kInvalidArgument);
}

}  // namespace
}  // namespace penstock::engine
