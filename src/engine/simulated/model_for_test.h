#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <list>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "engine/simulated/model.h"

/// A small worker model to drive a pass at a time, for the tests of it.
namespace penstock::engine::simulated {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Names for a prompt that shares nothing with another `family`'s, and everything with its own.
inline std::vector<kv::BlockHash> names(std::uint64_t family, std::uint32_t blocks) {
  std::vector<kv::BlockHash> result;
  for (std::uint32_t i = 0; i < blocks; ++i)
    result.push_back({.high = 99, .low = family * 1000 + i});
  return result;
}

/// Keeps what a reader of the events would know.
class Reader final : public PoolListener {
 public:
  void stored(const StoredRun& run) override {
    for (const kv::BlockHash& key : run.keys) {
      EXPECT_TRUE(held.insert({key.high, key.low}).second);
    }
  }
  void removed(std::span<const kv::BlockHash> keys) override {
    for (const kv::BlockHash& key : keys) EXPECT_EQ(held.erase({key.high, key.low}), 1U);
  }
  std::set<std::pair<std::uint64_t, std::uint64_t>> held;
};

/// A small worker: 4 tokens a block, 32 blocks.
inline ModelOptions small() {
  ModelOptions options;
  options.kv_blocks = 32;
  options.block_tokens = 4;
  options.sequences_max = 4;
  options.pass_tokens_max = 16;
  return options;
}

inline std::vector<std::uint64_t> tags(std::span<const Emission> emissions) {
  std::vector<std::uint64_t> result;
  for (const Emission& e : emissions) result.push_back(e.tag);
  return result;
}

using Tags = std::vector<std::uint64_t>;

/// A model with prompts that stay alive, driven a pass at a time.
struct Worker {
  explicit Worker(const ModelOptions& options) : model(options, &reader) {}

  SequenceId submit(std::uint64_t tag, std::uint32_t prompt, std::uint32_t output,
                    std::uint64_t family, std::int32_t priority = 0) {
    return model.submit(submission(tag, prompt, output, family, priority));
  }
  Submission submission(std::uint64_t tag, std::uint32_t prompt, std::uint32_t output,
                        std::uint64_t family, std::int32_t priority = 0) {
    kept.push_back(names(family, prompt / model.options().block_tokens));
    return {.tag = tag,
            .keys = kept.back(),
            .prompt_tokens = prompt,
            .output_tokens = output,
            .priority = priority};
  }
  Tags pass() {
    duration = model.start_pass().duration;
    Tags result = tags(model.finish_pass());
    model.check_invariants();
    return result;
  }

  Reader reader;
  SchedulerModel model;
  std::list<std::vector<kv::BlockHash>> kept;
  Nanos duration{0};
};

inline Nanos prefill(double tokens) { return pass_time(PolynomialClock().prefill_ms(tokens), 1); }
inline Nanos decode(double used, double capacity) {
  return pass_time(PolynomialClock().decode_ms(used / capacity), 1);
}

}  // namespace penstock::engine::simulated
