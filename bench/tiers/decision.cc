// Whether loading or computing a prompt was decided rightly: the time to first token of prompts
// that lie on disk or in host memory, loaded in any case, computed in any case, and as the engine
// decides by itself. A JSON line a prompt and tier, the quickest of the rounds: what else runs on
// the machine only adds.
//
//   tiers_decision MODEL FOLDER ROUNDS BLOCK_TOKENS TOKENS...
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "../must.h"
#include "base/check.h"
#include "base/rng.h"
#include "engine/llama/llama_engine.h"
#include "engine/llama/shared_store.h"
#include "text/model_file.h"

namespace penstock::bench {
namespace {

constexpr std::uint64_t kHostBytes = 1ULL << 30;
constexpr std::uint64_t kDiskBytes = 8ULL << 30;
constexpr std::size_t kFirstTokens = 257;

class FirstToken final : public engine::OutputSink {
 public:
  void deliver(std::span<engine::Output> outputs) override {
    for (const engine::Output& output : outputs) {
      if (output.finish) usage_.set_value(output.usage);
    }
  }
  engine::Usage wait() { return usage_.get_future().get(); }

 private:
  std::promise<engine::Usage> usage_;
};

struct Asked {
  double ms = 0;
  std::uint32_t cached = 0;  // tokens
};

/// Leaves the engine's own KV empty.
Asked ask(engine::Engine& engine, const std::vector<Token>& prompt) {
  static std::uint64_t last_id = 0;
  FirstToken sink;
  engine::GenerateRequest request;
  request.id = RequestId{++last_id};
  request.sink = &sink;
  request.prompt = prompt;
  request.max_tokens = 1;
  request.ignore_eos = true;
  const TimePoint start = SteadyClock().now();
  CHECK(engine.generate(std::move(request)).has_value());
  const std::uint32_t cached = sink.wait().cached_tokens;
  const double ms = to_ms(SteadyClock().now() - start);
  CHECK(engine.clear_cache().has_value());
  return {ms, cached};
}

/// A prompt that lies in one tier, asked in one way; each round adds to it.
struct Times {
  std::vector<double> ms;
  std::uint32_t cached = 0;  // tokens, the last time

  void add(const Asked& asked) {
    ms.push_back(asked.ms);
    cached = asked.cached;
  }
};

class Bench final {
 public:
  static constexpr double kDecides = 1;
  static constexpr double kLoads = 1e4;  // a weight by which all is kept and loaded

  Bench(const std::string& model, std::string folder, std::uint32_t block_tokens)
      : folder_(std::move(folder)),
        block_tokens_(block_tokens),
        model_(must(text::ModelFile::open({.path = model}))) {}

  [[nodiscard]] std::shared_ptr<engine::SharedStore> store() const {
    tiers::Options options;
    options.host_bytes = kHostBytes;
    options.disk_folder = folder_;
    options.disk_bytes = kDiskBytes;
    return std::make_shared<engine::SharedStore>(options, clock_);
  }
  [[nodiscard]] std::unique_ptr<engine::Engine> worker(std::shared_ptr<engine::SharedStore> store,
                                                       double recompute_weight) const {
    engine::LlamaOptions options;
    options.sequences_max = 1;
    options.block_tokens = block_tokens_;
    options.threads = 1;  // several wait for each other, and so for whatever else computes here
    options.store = std::move(store);
    options.recompute_weight = recompute_weight;
    return must(engine::make_llama_engine(model_, options, clock_));
  }

 private:
  const SteadyClock clock_;
  const std::string folder_;
  const std::uint32_t block_tokens_;
  const std::shared_ptr<const text::ModelFile> model_;
};

/// Of one prompt, from disk and from host memory.
using TierTimes = std::array<Times, tiers::kTiers>;

/// Each prompt first from disk, by a store that has just been opened, then from host memory. The
/// first prompt is there for what costs are measured by, and is loaded whatever is decided.
void measure(const Bench& bench, double recompute_weight,
             const std::vector<std::vector<Token>>& prompts, std::vector<TierTimes>& times) {
  const auto store = bench.store();
  const auto worker = bench.worker(store, recompute_weight);
  const auto loader = bench.worker(store, Bench::kLoads);
  ask(*loader, prompts.front());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    times[i][static_cast<std::size_t>(tiers::Tier::kDisk)].add(ask(*worker, prompts[i]));
    ask(*loader, prompts[i]);  // it is in host memory by now, whatever was decided
    times[i][static_cast<std::size_t>(tiers::Tier::kHost)].add(ask(*worker, prompts[i]));
  }
}

int run(int argc, char** argv) {
  if (argc < 6) {
    fmt::print(stderr, "tiers_decision MODEL FOLDER ROUNDS BLOCK_TOKENS TOKENS...\n");
    return 2;
  }
  const auto block_tokens = static_cast<std::uint32_t>(std::strtoul(argv[4], nullptr, 10));
  const Bench bench(argv[1], argv[2], block_tokens);
  std::vector<std::vector<Token>> prompts(1, std::vector<Token>(kFirstTokens));
  for (int i = 5; i < argc; ++i) prompts.emplace_back(std::strtoul(argv[i], nullptr, 10));
  Rng rng(1);
  for (auto& prompt : prompts) {
    for (Token& token : prompt) token = static_cast<Token>(rng.below(256));
  }
  {
    const auto writer = bench.worker(bench.store(), Bench::kLoads);
    for (const auto& prompt : prompts) ask(*writer, prompt);
  }
  std::vector<Times> computed(prompts.size());
  std::vector<TierTimes> loaded(prompts.size());
  std::vector<TierTimes> decided(prompts.size());
  const auto computes = bench.worker(nullptr, Bench::kDecides);
  for (auto round = std::strtoul(argv[3], nullptr, 10); round > 0; --round) {
    // What takes longest and differs most is measured every third time.
    for (std::size_t i = 0; i < prompts.size() && round % 3 == 1; ++i) {
      computed[i].add(ask(*computes, prompts[i]));
    }
    measure(bench, Bench::kLoads, prompts, loaded);
    measure(bench, Bench::kDecides, prompts, decided);
  }
  for (std::size_t i = 1; i < prompts.size(); ++i) {
    for (const tiers::Tier tier : {tiers::Tier::kDisk, tiers::Tier::kHost}) {
      const Times& by_load = loaded[i][static_cast<std::size_t>(tier)];
      const Times& as_decided = decided[i][static_cast<std::size_t>(tier)];
      fmt::print(R"({{"tokens": {}, "tier": "{}", "computed_ms": {:.3f}, "loaded_ms": {:.3f}, )"
                 R"("loaded_tokens": {}, "decided_ms": {:.3f}, "decided_tokens": {}}})"
                 "\n",
                 prompts[i].size(), to_string(tier), std::ranges::min(computed[i].ms),
                 std::ranges::min(by_load.ms), by_load.cached, std::ranges::min(as_decided.ms),
                 as_decided.cached);
    }
  }
  return 0;
}

}  // namespace
}  // namespace penstock::bench

int main(int argc, char** argv) { return penstock::bench::run(argc, argv); }
