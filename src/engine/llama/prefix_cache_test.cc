// The store behind a worker: what one worker computed another takes from it, after a restart too,
// and answers with the same tokens.
#include "engine/llama/prefix_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <future>

#include "base/rng.h"
#include "engine/llama/shared_store.h"
#include "text/tiny_model.h"

namespace penstock::engine {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMib = 1 << 20;

class OneAnswer final : public OutputSink {
 public:
  struct Answer {
    std::vector<Token> tokens;
    Usage usage;
    FinishReason finish = FinishReason::kError;
  };
  void deliver(std::span<Output> outputs) override {
    for (const Output& o : outputs) {
      if (o.token) answer_.tokens.push_back(*o.token);
      if (!o.finish) continue;
      answer_.usage = o.usage;
      answer_.finish = *o.finish;
      done_.set_value(std::move(answer_));
    }
  }
  Answer wait() { return done_.get_future().get(); }

 private:
  Answer answer_;
  std::promise<Answer> done_;
};

class PrefixCacheTest : public ::testing::Test {
 public:
  PrefixCacheTest() : folder_(::testing::TempDir() + "penstock-prefix-XXXXXX") {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    options_.context_tokens = 1024;
    options_.sequences_max = 2;
    options_.threads = 1;
    options_.exact = true;
    prompt_.resize(700);
    Rng rng(3);
    for (Token& token : prompt_) token = static_cast<Token>(rng.below(256));
  }
  ~PrefixCacheTest() override { std::filesystem::remove_all(folder_); }

 protected:
  std::shared_ptr<SharedStore> open_store(bool disk = true) {
    tiers::Options options;
    options.host_bytes = 4 * kMib;
    if (disk) options.disk_folder = folder_;
    options.disk_bytes = 64 * kMib;
    options.segment_bytes = kMib;
    return std::make_shared<SharedStore>(options, clock_);
  }
  std::unique_ptr<Engine> worker(std::shared_ptr<SharedStore> store) {
    LlamaOptions options = options_;
    options.store = std::move(store);
    return make_llama_engine(model_, options, clock_).value();
  }
  std::vector<tiers::Key> keys_of(const Engine& engine, std::string_view salt) {
    std::vector<tiers::Key> keys;
    tiers::name_blocks(tiers::root_key(engine.info().kv_tiers_key, salt), prompt_, 64, keys);
    return keys;
  }
  OneAnswer::Answer ask(Engine& engine, std::span<const Token> prompt, std::string salt = {},
                        std::vector<tiers::Key> keys = {}) {
    OneAnswer collector;
    GenerateRequest request;
    request.id = RequestId{++last_id_};
    request.sink = &collector;
    request.prompt.assign(prompt.begin(), prompt.end());
    request.cache_salt = std::move(salt);
    request.keys = std::move(keys);
    request.max_tokens = 12;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    EXPECT_TRUE(engine.generate(std::move(request)).has_value());
    return collector.wait();
  }

  std::string folder_;
  std::shared_ptr<const text::ModelFile> model_ = text::tiny_model();
  SteadyClock clock_;
  LlamaOptions options_;
  std::vector<Token> prompt_;
  std::uint64_t last_id_ = 0;
};

TEST_F(PrefixCacheTest, APromptIsRestoredAfterARestartTokenForToken) {
  const auto cold = ask(*worker(nullptr), prompt_);
  {
    const auto store = open_store();
    const auto first = ask(*worker(store), prompt_);
    EXPECT_EQ(first.tokens, cold.tokens);
    EXPECT_EQ(first.usage.cached_tokens, 0U);
  }
  const auto engine = worker(open_store());
  const auto again = ask(*engine, prompt_);
  EXPECT_EQ(again.tokens, cold.tokens);
  EXPECT_GE(again.usage.cached_tokens, 512U);
  const tiers::Stats stats = engine->tier_state().stats.value();
  EXPECT_EQ(stats.given[static_cast<std::size_t>(tiers::Tier::kDisk)], 10U);
  EXPECT_EQ(stats.missed, decltype(stats.missed){});
}

TEST_F(PrefixCacheTest, HowMuchComputingCountsDecidesWhatIsLoaded) {
  for (const double weight : {1e4, 0.0}) {
    const auto store = open_store();
    ask(*worker(store), prompt_);
    options_.recompute_weight = weight;
    EXPECT_EQ(ask(*worker(store), prompt_).usage.cached_tokens > 0, weight > 0);
    options_.recompute_weight = 1;
  }
}

TEST_F(PrefixCacheTest, WhatWillBeLoadedIsForeseenAfterARestartToo) {
  EXPECT_EQ(worker(nullptr)->info().kv_tiers_key, "");
  {
    const auto engine = worker(open_store());
    EXPECT_EQ(engine->foresee_load(keys_of(*engine, ""), 0).blocks, 0U);
    ask(*engine, prompt_);
  }
  const auto engine = worker(open_store());
  EXPECT_EQ(engine->foresee_load(keys_of(*engine, ""), 0).blocks, 10U);
  EXPECT_EQ(engine->foresee_load(keys_of(*engine, ""), 0).slowest, tiers::Tier::kDisk);
  EXPECT_EQ(engine->foresee_load(keys_of(*engine, ""), 7).blocks, 3U);
  EXPECT_EQ(engine->foresee_load(keys_of(*engine, "tenant"), 0).blocks, 0U);
}

TEST_F(PrefixCacheTest, NamesThatComeWithARequestAreTakenAsTheyAre) {
  const auto cached_with = [&](std::string_view salt) {
    const auto engine = worker(open_store());
    return ask(*engine, prompt_, {}, keys_of(*engine, salt)).usage.cached_tokens;
  };
  EXPECT_EQ(cached_with(""), 0U);
  EXPECT_GE(ask(*worker(open_store()), prompt_).usage.cached_tokens, 512U);
  EXPECT_EQ(cached_with("what nothing is called"), 0U);
  EXPECT_GE(cached_with(""), 512U);
}

TEST_F(PrefixCacheTest, OnlyTheCommonBeginningIsRestored) {
  {
    ask(*worker(open_store()), prompt_);
  }
  std::vector<Token> other = prompt_;
  other[500] = (other[500] + 1) % 256;
  const auto cold = ask(*worker(nullptr), other);
  const auto warm = ask(*worker(open_store()), other);
  EXPECT_EQ(warm.tokens, cold.tokens);
  EXPECT_GT(warm.usage.cached_tokens, 0U);
  EXPECT_LE(warm.usage.cached_tokens, 500U);
}

TEST_F(PrefixCacheTest, ATenantsSaltAndOtherSettingsFindNothing) {
  {
    ask(*worker(open_store()), prompt_, "one");
  }
  EXPECT_EQ(ask(*worker(open_store()), prompt_, "two").usage.cached_tokens, 0U);
  options_.block_tokens = 32;
  EXPECT_EQ(ask(*worker(open_store()), prompt_, "one").usage.cached_tokens, 0U);
  options_.block_tokens = 64;
  options_.exact = false;
  EXPECT_EQ(ask(*worker(open_store()), prompt_, "one").usage.cached_tokens, 0U);
  options_.exact = true;
  EXPECT_GT(ask(*worker(open_store()), prompt_, "one").usage.cached_tokens, 0U);
}

TEST_F(PrefixCacheTest, WhatAPoolEvictsAnotherWorkerTakes) {
  options_.reuse_bytes = 128 << 10;  // eight blocks
  const auto store = open_store(false);
  const auto first = worker(store);
  const auto second = worker(store);
  const auto cold = ask(*first, prompt_);
  std::vector<Token> other = prompt_;
  std::ranges::reverse(other);
  ask(*first, other);  // pushes the first one out
  const auto taken = ask(*second, prompt_);
  EXPECT_EQ(taken.tokens, cold.tokens);
  EXPECT_GT(taken.usage.cached_tokens, 0U);
}

TEST_F(PrefixCacheTest, WorkersOfOneStoreAgreeOnItsBlocks) {
  const auto store = open_store(false);
  const auto first = worker(store);
  LlamaOptions other = options_;
  other.block_tokens = 32;
  other.store = store;
  EXPECT_FALSE(make_llama_engine(model_, other, clock_).has_value());
}

}  // namespace
}  // namespace penstock::engine
