#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/command.h"

namespace penstock::cli {
namespace {

using testing::HasSubstr;

/// What `penstock simulate` with these flags says on standard error; empty: it ran.
std::string refusal_of(std::vector<std::string> flags) {
  CommandLine line("penstock", "", "1");
  add_simulate(line);
  flags.insert(flags.begin(), {"simulate", "poisson:requests=3"});
  const auto run = line.parse(flags);
  if (!run) return run.error().message;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const int status = (*run)();
  testing::internal::GetCapturedStdout();
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(status, said.empty() ? 0 : 2);
  return said;
}

TEST(SimulateCommand, FlagsThatNeedOthersAreRefusedWithoutThem) {
  EXPECT_THAT(refusal_of({"--prefill", "1"}), HasSubstr("--prefill and --decode need each other"));
  const std::vector<std::string> apart = {"--prefill", "1", "--decode", "1"};
  EXPECT_THAT(refusal_of({"--prefill", "1", "--decode", "1", "--workers", "8"}),
              HasSubstr("--workers"));
  const std::vector<std::vector<std::string>> of_hand_overs = {{"--early-hand-over"},
                                                               {"--split-when-better"},
                                                               {"--transfer-gb-s", "64"},
                                                               {"--kv-bytes-per-token", "131072"}};
  for (std::vector<std::string> flags : of_hand_overs) {
    EXPECT_THAT(refusal_of(flags), HasSubstr(flags.front() + " says"));
    flags.insert(flags.end(), apart.begin(), apart.end());
    EXPECT_EQ(refusal_of(flags), "");
  }
  const std::vector<std::vector<std::string>> of_routers = {{"--routers-apart"},
                                                            {"--peer-delay-ms", "1"}};
  for (std::vector<std::string> flags : of_routers) {
    EXPECT_THAT(refusal_of(flags), HasSubstr(flags.front() + " is about several routers"));
    flags.insert(flags.end(), {"--routers", "2"});
    EXPECT_EQ(refusal_of(flags), "");
  }
  EXPECT_EQ(refusal_of({"--workers", "2"}), "");
}

}  // namespace
}  // namespace penstock::cli
