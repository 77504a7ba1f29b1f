#include "cli/bench_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace penstock::cli {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

/// What a command line comes to.
Result<std::unique_ptr<BenchPlan>> plan_of(std::vector<std::string> arguments) {
  CommandLine line("penstock", "", "1");
  BenchFlags flags;
  Command& command = line.add_command("bench", "", "PENSTOCK_BENCH_");
  declare(command, flags);
  command.on_run([] { return 0; });
  arguments.insert(arguments.begin(), "bench");
  if (const auto run = line.parse(arguments); !run) return std::unexpected(run.error());
  return settle(flags);
}

class TemporaryFile final {
 public:
  explicit TemporaryFile(const std::string& content)
      : path_(testing::TempDir() + "bench_flags_test_" + std::to_string(::getpid()) + ".jsonl") {
    std::ofstream(path_) << content;
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(BenchFlagsTest, NothingHasToBeGiven) {
  const auto plan = plan_of({});
  ASSERT_TRUE(plan) << plan.error().message;
  const load::LoadOptions& options = (*plan)->options;
  EXPECT_EQ(options.server.host, "127.0.0.1");
  EXPECT_EQ(options.server.port, 8000);
  EXPECT_EQ(options.pacing, load::Pacing::kClosed);
  EXPECT_EQ(options.concurrency, 4U);
  EXPECT_EQ(options.duration, Nanos(10s));
  EXPECT_FALSE(options.requests);
  EXPECT_TRUE(options.request.stream);
  EXPECT_FALSE(options.request.seed);
  EXPECT_FALSE(options.request.temperature);
}

TEST(BenchFlagsTest, UrlsMayEndInV1) {
  for (const char* url : {"http://h:7", "http://h:7/", "http://h:7/v1", "http://h:7/v1/"}) {
    const auto plan = plan_of({"--url", url});
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_EQ((*plan)->options.server.path, "") << url;
  }
  EXPECT_EQ((*plan_of({"--url", "http://h/a/v1"}))->options.server.path, "/a");
}

TEST(BenchFlagsTest, AGivenSeedIsSentAndADrawnOneIsNot) {
  const auto given = plan_of({"--seed", "17"});
  EXPECT_EQ((*given)->options.seed, 17U);
  EXPECT_EQ((*given)->options.request.seed, 17U);
  EXPECT_EQ((*given)->prompts->turn(3, 0), (*plan_of({"--seed", "17"}))->prompts->turn(3, 0));
  EXPECT_NE((*given)->prompts->turn(3, 0), (*plan_of({"--seed", "18"}))->prompts->turn(3, 0));
}

TEST(BenchFlagsTest, RateIsAnOpenLoopAndATraceToo) {
  const auto rate = plan_of({"--rate", "2.5", "--arrivals", "uniform", "--requests", "9"});
  EXPECT_EQ((*rate)->options.pacing, load::Pacing::kRate);
  EXPECT_EQ((*rate)->options.spacing, load::Spacing::kUniform);
  EXPECT_EQ((*rate)->options.requests, 9U);
  EXPECT_FALSE((*rate)->options.duration);

  const TemporaryFile trace(R"({"timestamp":0,"input_length":3,"output_length":4,"hash_ids":[1]})"
                            "\n"
                            R"({"timestamp":9,"input_length":3,"output_length":4,"hash_ids":[1]})");
  const auto replay = plan_of({"--trace", trace.path(), "--speed", "3"});
  ASSERT_TRUE(replay) << replay.error().message;
  EXPECT_EQ((*replay)->options.pacing, load::Pacing::kTrace);
  EXPECT_EQ((*replay)->options.speed, 3);
  EXPECT_EQ((*replay)->options.requests, 2U);
  EXPECT_FALSE((*replay)->options.duration);
  EXPECT_EQ((*replay)->trace.size(), 2U);
  EXPECT_EQ((*plan_of({"--trace", trace.path(), "--concurrency", "2"}))->options.pacing,
            load::Pacing::kClosed);
  EXPECT_EQ((*plan_of({"--trace", trace.path(), "--rate", "2"}))->options.pacing,
            load::Pacing::kRate);
}

TEST(BenchFlagsTest, PromptsComeFromAFile) {
  const TemporaryFile prompts("\"one\"\n\"two\"\n\"three\"\n");
  const auto plan = plan_of({"--prompts", prompts.path()});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ((*plan)->options.requests, 3U);
  EXPECT_THAT((*plan)->prompts->turn(1, 0), HasSubstr("two"));
}

TEST(BenchFlagsTest, WhatDoesNotGoTogetherIsSaid) {
  const TemporaryFile bad("{\n");
  const struct {
    std::vector<std::string> line;
    const char* says;
  } cases[] = {
      {{"--rate", "1", "--concurrency", "1"}, "exclude each other"},
      {{"--trace", bad.path(), "--prompts", bad.path()}, "exclude each other"},
      {{"--trace", bad.path()}, "line 1: no JSON"},
      {{"--prompts", bad.path()}, "line 1: no JSON"},
      {{"--prompts", bad.path(), "--turns", "2"}, "--turns"},
      {{"--prefix-groups", "2"}, "--shared-prefix-tokens"},
      {{"--speed", "2"}, "--trace"},
      {{"--no-stream", "--slo-itl-ms", "5"}, "--stream"},
      {{"--url", "https://x"}, "http"},
      {{"--url", "http://x/v1?y=1"}, "query"},
      {{"--rate", "-1"}, "--rate"},
      {{"--rate", "nan"}, "--rate: nan is not a number"},
      {{"--temperature", "nan"}, "--temperature"},
      {{"--concurrency", "-4"}, "--concurrency"},
      {{"--endpoint", "embeddings"}, "--endpoint"},
      {{"--max-tokens", "0"}, "--max-tokens"},
      {{"--trace", "/no/such/file"}, "--trace"},
  };
  for (const auto& c : cases) {
    const auto plan = plan_of(c.line);
    ASSERT_FALSE(plan) << c.line[0];
    EXPECT_THAT(plan.error().message, HasSubstr(c.says));
  }
}

TEST(BenchFlagsTest, TheEnvironmentGivesWhatTheLineDoesNot) {
  // NOLINTBEGIN(concurrency-mt-unsafe): the test has one thread
  ::setenv("PENSTOCK_BENCH_MAX_TOKENS", "7", 1);
  ::setenv("PENSTOCK_BENCH_SLO_TTFT_MS", "2.5", 1);
  const auto plan = plan_of({});
  const auto line = plan_of({"--max-tokens", "8"});
  ::unsetenv("PENSTOCK_BENCH_MAX_TOKENS");
  ::unsetenv("PENSTOCK_BENCH_SLO_TTFT_MS");
  // NOLINTEND(concurrency-mt-unsafe)
  EXPECT_EQ((*plan)->options.request.max_tokens, 7U);
  EXPECT_EQ((*plan)->options.slo.ttft, Nanos(2500us));
  EXPECT_EQ((*line)->options.request.max_tokens, 8U);
}

}  // namespace
}  // namespace penstock::cli
