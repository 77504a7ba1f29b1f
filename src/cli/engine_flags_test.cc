#include "cli/engine_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "cli/command_line.h"

namespace penstock::cli {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// The options that these arguments mean, or what is wrong with them.
Result<serve::ModelOptions> options_of(std::vector<std::string> arguments,
                                       std::uint32_t workers = 1) {
  CommandLine line("penstock", "Tests", "1.2");
  Command& command = line.add_command("serve", "Serves", "ENGINE_FLAGS_TEST_");
  EngineFlags flags;
  declare_engine(command, "--model", flags);
  command.on_run([] { return 0; });
  arguments.insert(arguments.begin(), "serve");
  const auto run = line.parse(arguments);
  if (!run) return std::unexpected(run.error());
  return engine_options(flags, workers);
}

std::string problem_of(const std::vector<std::string>& arguments, std::uint32_t workers = 1) {
  const Result<serve::ModelOptions> options = options_of(arguments, workers);
  return options ? "" : options.error().message;
}

TEST(EngineFlags, TheSimulatedEngineHearsOfThoseThatMeanSomethingToIt) {
  const auto options = options_of({"--model", "simulated", "--sequences", "3", "--queue", "5",
                                   "--context", "640", "--block-tokens", "16", "--step-tokens",
                                   "128", "--kv-blocks", "50", "--speedup", "max"});
  ASSERT_TRUE(options) << options.error().message;
  ASSERT_TRUE(options->simulated);
  const engine::SimulatedOptions& simulated = *options->simulated;
  EXPECT_EQ(simulated.worker.sequences_max, 3U);
  EXPECT_EQ(simulated.queue_max, 5U);
  EXPECT_EQ(simulated.context_tokens_max, 640U);
  EXPECT_EQ(simulated.worker.block_tokens, 16U);
  EXPECT_EQ(simulated.worker.pass_tokens_max, 128U);
  EXPECT_EQ(simulated.worker.kv_blocks, 50U);
  EXPECT_EQ(simulated.worker.speedup, engine::SimulatedOptions::kSpeedupMax);
}

TEST(EngineFlags, WithoutThemEachEngineHasItsOwnDefaults) {
  const auto simulated = options_of({"--model", "simulated"});
  ASSERT_TRUE(simulated) << simulated.error().message;
  const engine::SimulatedOptions own;
  EXPECT_EQ(simulated->simulated->worker.sequences_max, own.worker.sequences_max);
  EXPECT_EQ(simulated->simulated->worker.kv_blocks, own.worker.kv_blocks);
  EXPECT_EQ(simulated->simulated->worker.pass_tokens_max, own.worker.pass_tokens_max);
  EXPECT_EQ(simulated->simulated->worker.speedup, 1);
  EXPECT_EQ(simulated->simulated->context_tokens_max, own.context_tokens_max);
  EXPECT_EQ(simulated->simulated->queue_max, own.queue_max);
  const auto demo = options_of({"--model", "demo"}, 3);
  ASSERT_TRUE(demo) << demo.error().message;
  EXPECT_FALSE(demo->simulated);
  EXPECT_EQ(demo->llama.sequences_max, 2U);
  EXPECT_EQ(demo->llama.context_tokens, 4096U);
  EXPECT_EQ(demo->llama.queue_max, 256U);
  EXPECT_EQ(demo->llama.step_tokens, 512U);
}

TEST(EngineFlags, WhatMeansNothingToTheEngineIsRefusedByName) {
  for (const std::vector<std::string>& flag :
       std::vector<std::vector<std::string>>{{"--kv-cache-mib", "1024"},
                                             {"--kv-disk", "/tmp"},
                                             {"--kv-host-mib", "64"},
                                             {"--kv-type", "f16"},
                                             {"--kv-transfer", "none"},
                                             {"--threads", "1"},
                                             {"--slice-ms", "100"},
                                             {"--exact"}}) {
    std::vector<std::string> arguments{"--model", "simulated"};
    arguments.insert(arguments.end(), flag.begin(), flag.end());
    EXPECT_THAT(problem_of(arguments), AllOf(HasSubstr(flag[0]), HasSubstr("simulated")));
    arguments[1] = "demo";
    EXPECT_EQ(problem_of(arguments), "");
  }
  for (const char* flag : {"--speedup", "--kv-blocks"}) {
    EXPECT_THAT(problem_of({"--model", "demo", flag, "2"}), HasSubstr(flag));
  }
  setenv("ENGINE_FLAGS_TEST_THREADS", "2", 1);  // NOLINT(concurrency-mt-unsafe): one thread
  EXPECT_THAT(problem_of({"--model", "simulated"}), HasSubstr("--threads"));
  EXPECT_EQ(problem_of({"--model", "demo"}), "");
  unsetenv("ENGINE_FLAGS_TEST_THREADS");  // NOLINT(concurrency-mt-unsafe): one thread
}

TEST(EngineFlags, WhatIsSaidOfADiskNeedsOne) {
  for (const char* flag : {"--kv-disk-mib", "--kv-disk-writes-gib"}) {
    EXPECT_THAT(problem_of({"--model", "simulated", flag, "64"}),
                AllOf(HasSubstr(flag), HasSubstr("simulated")));
    EXPECT_THAT(problem_of({"--model", "demo", flag, "64"}),
                AllOf(HasSubstr(flag), HasSubstr("without --kv-disk FOLDER")));
    EXPECT_EQ(problem_of({"--model", "demo", flag, "64", "--kv-disk", "/tmp"}), "");
  }
}

TEST(EngineFlags, NoneMeansAnythingWithoutWorkers) {
  for (const char* flag : {"--threads", "--context", "--speedup"}) {
    EXPECT_THAT(problem_of({"--model", "demo", flag, "64"}, 0),
                AllOf(HasSubstr(flag), HasSubstr("--workers 0")));
  }
  EXPECT_EQ(problem_of({"--model", "demo"}, 0), "");
}

TEST(EngineFlags, SimulatedBlocksMustHoldASequence) {
  EXPECT_THAT(problem_of({"--model", "simulated", "--kv-blocks", "7", "--block-tokens", "8"}),
              HasSubstr("--kv-blocks 7"));
  EXPECT_EQ(problem_of({"--model", "simulated", "--kv-blocks", "8", "--block-tokens", "8"}), "");
  EXPECT_THAT(problem_of({"--model", "simulated", "--kv-blocks", "8", "--context", "1024"}),
              HasSubstr("1024"));
}

TEST(EngineFlags, SpeedupIsANumberAboveZeroOrMax) {
  for (const char* value : {"0", "-1", "nan", "inf", "fast", "1x", ""}) {
    EXPECT_THAT(problem_of({"--model", "simulated", "--speedup", value}), HasSubstr("--speedup"));
  }
  EXPECT_EQ(problem_of({"--model", "simulated", "--speedup", "0.5"}), "");
}

}  // namespace
}  // namespace penstock::cli
